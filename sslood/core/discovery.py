"""What is found by its name: a file in a folder is an entry, and adding one touches no other file."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from sslood.core.errors import known

T = TypeVar("T")


def names_in(package: ModuleType) -> list[str]:
    """Return the names of the modules of a package, in alphabetical order; none of them is imported."""
    return sorted({file.stem for folder in package.__path__ for file in Path(folder).glob("[!_]*.py")})


def class_named(package: str, name: str, base: type[T], kind: str) -> type[T]:
    """Import the module `name` of a package (dotted), and only it, and return its subclass of `base`.

    kind: what the message calls it. Raises InputError for an unknown name, TypeError unless the module
    defines exactly one such class whose name has no leading underscore.
    """
    known(name, kind, names_in(import_module(package)))
    module = import_module(f"{package}.{name}")
    classes = [
        value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and not key.startswith("_")
    ]
    if len(classes) != 1:
        raise TypeError(f"{module.__name__} must define one {base.__name__}, found {len(classes)}")
    return classes[0]


def classes_in(package: ModuleType, base: type[T]) -> dict[str, type[T]]:
    """Return {module name: its subclass of `base`} of every module of a package."""
    return {name: class_named(package.__name__, name, base, package.__name__) for name in names_in(package)}
