"""The cells of a sweep: every combination of the levels of its factors, from one or several grids.

    sweeps:
      priors:
        detectors: [kl_prior, knn]          # of `posthoc` and of `stochastic`
        grids:
        - objective: [bayes_h_vicreg]       # or a variant of one
          beta: [0.001, 0.0001]             # any key of the objective's section or of `pretrain`
          augment.crop_scale_min: [0.2, 0.4]
          backbone.width: [16, 32]
          seed: [0, 1]                      # those of `runs.seeds` unless it is given

A value that is no list is a single level. A level that is a list itself, such as the widths of a projector,
stands in a list of lists.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from sslood.core.errors import InputError
from sslood.core.settings import near

OBJECTIVE, SEED = "objective", "seed"  # factors that are no keys of an objective
KEYS = ("detectors", "grids")
Factors = Mapping[str, Any]


@dataclass(frozen=True)
class Sweep:
    """The section of one sweep: its detectors, and the factors of each cell, with objective and seed."""

    detectors: tuple[str, ...]
    cells: tuple[Factors, ...]

    @property
    def factors(self) -> list[str]:
        """Names of the factors that tell settings apart, the objective first, without the seed.

        They have several levels, or are left out by some cells of an objective that has them in others.
        """
        names = dict.fromkeys(name for cell in self.cells for name in cell)
        return [name for name in names if name != SEED and self._tells_apart(name)]

    def _tells_apart(self, factor: str) -> bool:
        having = {shown(cell[OBJECTIVE]) for cell in self.cells if factor in cell}
        lacking = {shown(cell[OBJECTIVE]) for cell in self.cells if factor not in cell}
        return len(levels(self.cells, factor)) > 1 or bool(having & lacking)


def levels(cells: Iterable[Factors], factor: str) -> list[Any]:
    """Return the levels of a factor in the order in which they first stand, as far as cells have it."""
    return list({shown(cell[factor]): cell[factor] for cell in cells if factor in cell}.values())


def shown(level: Any) -> str:
    """Return a level as a cell of a table: a list's items joined by -."""
    return "-".join(map(str, level)) if isinstance(level, list | tuple) else str(level)


def name_of(cell: Factors) -> str:
    """Return the factors of a cell in words, e.g. "bayes_h_vicreg, beta 0.01, seed 0"."""
    rest = [f"{factor} {shown(level)}" for factor, level in cell.items() if factor != OBJECTIVE]
    return ", ".join([str(cell[OBJECTIVE]), *rest])


def read_sweep(section: Any, seeds: Sequence[int], where: str) -> Sweep:
    """Return the sweep of a section of `sweeps`; `where`: its FILE:KEY.

    Raises InputError for an unknown key, a grid without objective, and a detector or cell that stands twice.
    """
    if not isinstance(section, Mapping):
        raise InputError(f"{where}: must hold keys and values, found {section!r}")
    for key in section:
        if key not in KEYS:
            raise InputError(f"{where}: unknown key {key!r}{near(key, KEYS)}")
    detectors, grids = (_listed(section.get(key), f"{where}.{key}") for key in KEYS)
    if twice := [name for name in detectors if detectors.count(name) > 1]:
        raise InputError(f"{where}.detectors: {str(twice[0])!r} stands twice; take one out")
    cells: dict[frozenset[tuple[str, str]], Factors] = {}  # by what they hold, in whatever order
    for place, grid in enumerate(grids):
        for cell in _cells(grid, seeds, f"{where}.grids.{place}"):
            key = frozenset((factor, shown(level)) for factor, level in cell.items())
            if key in cells:
                raise InputError(f"{where}.grids: the cell {name_of(cell)} stands twice; take one out")
            cells[key] = cell
    return Sweep(tuple(map(str, detectors)), tuple(cells.values()))


def _listed(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: must list at least one, found {value!r}")
    return value


def _cells(grid: Any, seeds: Sequence[int], where: str) -> list[Factors]:
    if not isinstance(grid, Mapping):
        raise InputError(f"{where}: must hold factors and their levels, found {grid!r}")
    for key in grid:
        if not isinstance(key, str):
            raise InputError(f"{where}: the factor {key!r} is no text; name a key of the objective, say")
    if OBJECTIVE not in grid:
        raise InputError(f"{where}: missing key {OBJECTIVE!r}, the objectives of its cells")
    axes = {OBJECTIVE: grid[OBJECTIVE], **grid, SEED: grid.get(SEED, list(seeds))}
    found = {key: level if isinstance(level, list) else [level] for key, level in axes.items()}
    for key, level in found.items():
        if not level:
            raise InputError(f"{where}.{key}: must list at least one level")
    for seed in found[SEED]:
        if type(seed) is not int:
            raise InputError(f"{where}.{SEED}: must be a whole number, found {seed!r}")
    return [dict(zip(found, values, strict=True)) for values in product(*found.values())]
