"""Importing our modules for what they declare, without the libraries that they compute with.

The options of a stage follow from its settings classes, which stand beside networks and detectors. Importing
torch, scipy and pandas for them takes seconds, with stand-ins a fraction of one. Tools that make
documentation do the same.
"""

import sys
from abc import ABCMeta
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

OURS = ("sslood", "stages")
HEAVY = frozenset(
    """torch torchvision numpy scipy sklearn pandas PIL simplejpeg safetensors matplotlib jinja2 requests
    filelock threadpoolctl psutil tqdm""".split()
)


class _Any(ABCMeta):
    """Class of the stand-in: every attribute of it, and every result, is the stand-in again."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Standin

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is not Standin:
            return super().__call__(*args, **kwargs)
        return args[0] if len(args) == 1 and callable(args[0]) else Standin  # as a decorator

    def _again(cls, *_: Any) -> Any:
        return Standin

    def __iter__(cls) -> Iterator[Any]:
        return iter(())

    __getitem__ = __setitem__ = __or__ = __ror__ = _again
    __add__ = __sub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _again


class Standin(metaclass=_Any):
    """Stands for a class, function or constant of a library that is not imported."""


class _Module(ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Standin


class _Finder:
    """Finds the heavy libraries, as empty modules."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.partition(".")[0] in HEAVY else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def outlines() -> Iterator[None]:
    """Context in which modules of ours are imported with stand-ins; afterwards they count as not imported.

    Where torch is imported already there is nothing to save, and modules are imported as they are.
    """
    if "torch" in sys.modules:
        yield
        return
    before, finder = dict(sys.modules), _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in sys.modules.keys() - before.keys():
            if name.partition(".")[0] in HEAVY | set(OURS):
                above, _, last = name.rpartition(".")
                if above in before:
                    vars(before[above]).pop(last, None)
                del sys.modules[name]
