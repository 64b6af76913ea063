"""The rooms of trials: found by name, so that adding a file adds a room."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

_OTHER = ("__init__", "__main__", "kit", "rooms")


def room_names() -> list[str]:
    """Return the names of all rooms, in alphabetical order."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(
        file.stem for file in files if file.stem not in _OTHER and not file.stem.startswith("test_")
    )


def room(name: str) -> ModuleType:
    """Import one room."""
    return import_module(f"tests.trials.{name}")
