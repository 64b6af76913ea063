"""Which image sets of a part can be had: fetched first, and those that cannot are dropped and named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.graph import Cell
from tools.jobs import log_of

UNOBTAINABLE = "cannot be obtained"  # in the error of a download whose set is at none of its places
CHOSEN_ON = ("id", "tuning")  # roles of sets that every part learns from or chooses on


@dataclass(frozen=True)
class Absence:
    """Sets that cannot be had, with their reasons, and why the part cannot do without one, or nothing."""

    dropped: dict[str, str] = field(default_factory=dict)
    reason: str = ""


def absence(
    failed: Mapping[str, str], params: Mapping[str, Any], needs: tuple[str, ...], cells: Sequence[Cell]
) -> Absence:
    """Return what becomes of a part whose sets `failed` (name -> reason) cannot be had.

    cells: those that the part needs. One that names the file of a set cannot do without it.
    """
    files = {Path(dep) for cell in cells for dep in cell.deps}
    for name in failed:
        is_read = any(path.stem == name and path.parent.name == "sets" for path in files)
        if name in needs or is_read or params["sets"][name]["role"] in CHOSEN_ON:
            return Absence(dict(failed), f"set {name} cannot be had")
    return Absence(dict(failed))


def reason_of(cell: Cell) -> str:
    """Return the last sentence of the output of a stage that failed, on one line."""
    lines = [line.strip() for line in log_of(cell).read_text(errors="replace").splitlines() if line.strip()]
    starts = [place for place, line in enumerate(lines) if line.startswith("Error: ")]
    said = " ".join(lines[starts[-1] :] if starts else lines[-1:])
    return said.removeprefix("Error: ") or "its download ended without a word"


def set_of(cell: Cell) -> str:
    """Return the name of the set that a download makes."""
    return Path(cell.outs[0]).stem
