"""How much memory stages need, as measured when they last ran, and how much there is.

`scratch/needs.json` keeps {stage: {"seconds": …, "bytes": …}}; it is of this machine and no result.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import psutil

from sslood.core.errors import InputError
from sslood.core.files import save_json
from tools.graph import Cell

RECORD = Path("scratch/needs.json")
UNMEASURED = 1.0e9  # bytes: a stage that has not run here
CGROUPS = Path("/sys/fs/cgroup")


def free_memory(cgroups: Path = CGROUPS, group: Path = Path("/proc/self/cgroup")) -> float:
    """Return the bytes that can be used: what the system has free, within the limits of the container."""
    free = float(psutil.virtual_memory().available)
    place = cgroups
    with suppress(OSError):
        place = cgroups / group.read_text().rpartition("::")[2].strip().lstrip("/")
    for folder in (place, *place.parents):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            with suppress(OSError, ValueError):  # no such limit: "max", or no such file
                free = min(free, int((folder / limit).read_text()) - _held(folder, used))
    return max(free, 0.0)


def _held(folder: Path, used: str) -> int:
    """Return the bytes that a group uses, without the files that the system may drop from memory."""
    total = int((folder / used).read_text())
    lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return total - int(lines.get("inactive_file", lines.get("total_inactive_file", 0)))


class Needs:
    """What stages needed when they last ran here: seconds, and bytes of their largest process."""

    def __init__(self, path: Path = RECORD):
        self.path, self.known = path, dict[str, dict[str, float]]()
        with suppress(OSError, ValueError):
            self.known = json.loads(path.read_text())

    @property
    def seconds(self) -> dict[str, float]:
        return {name: found["seconds"] for name, found in self.known.items()}

    def note(self, name: str, seconds: float, peak: float) -> None:
        """Record a run."""
        self.known[name] = {"seconds": round(seconds, 1), "bytes": peak}
        save_json(self.path, self.known)

    def need(self, cell: Cell) -> float:
        """Return the bytes of a cell: its own, else the most of the cells of its stage, else UNMEASURED."""
        kind = cell.name.partition("@")[0]
        alike = [found["bytes"] for name, found in self.known.items() if name.partition("@")[0] == kind]
        return self.known.get(cell.name, {"bytes": max(alike, default=UNMEASURED)})["bytes"]


class Room:
    """The memory that jobs share."""

    def __init__(self, free: float, needs: Needs):
        self.free, self.need = free, needs.need

    def fits(self, together: Sequence[Cell]) -> bool:
        """Whether these cells can run at the same time."""
        return sum(map(self.need, together)) <= self.free

    def check(self, jobs: int, cells: Sequence[Cell]) -> None:
        """Raise InputError, with the J that is possible, if not even the smallest cells fit together."""
        totals = list(accumulate(sorted(map(self.need, cells))[:jobs]))
        if len(totals) > 1 and totals[-1] > self.free:
            possible = max(1, sum(total <= self.free for total in totals))
            raise InputError(
                f"J={jobs}: even the {len(totals)} smallest of the stages need {totals[-1] / 1e9:.1f} GB of "
                f"memory together, and {self.free / 1e9:.1f} GB are free; say J={possible}, or free some"
            )
