"""Importing our modules for what they declare, without the libraries that they compute with.

The options of a stage follow from its settings classes, which stand beside networks and detectors. Importing
torch, scipy and pandas for them takes seconds, with stand-ins a fraction of one. Tools that make
documentation do the same.
"""

import sys
from abc import ABCMeta
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

OURS = ("sslood", "stages")
HEAVY = frozenset(
    """torch torchvision numpy scipy sklearn pandas PIL simplejpeg safetensors matplotlib jinja2 requests
    filelock threadpoolctl psutil tqdm""".split()
)


class _Any(ABCMeta):
    """Class of the stand-ins: every attribute and every result of one is a stand-in again."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _standin(name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if "is_standin" not in vars(cls):  # a class of ours that derives from one
            return super().__call__(*args, **kwargs)
        return args[0] if len(args) == 1 and callable(args[0]) else cls  # perhaps a decorator

    def _same(cls, *_: Any) -> Any:
        return cls

    def __iter__(cls) -> Iterator[Any]:
        return iter(())

    __getitem__ = __setitem__ = __or__ = __ror__ = _same
    __add__ = __sub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _same


@cache
def _standin(name: str) -> Any:
    """Return what stands for a class, function or constant of that name."""
    return _Any(name, (), {"is_standin": True})


class _Module(ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _standin(name)


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
