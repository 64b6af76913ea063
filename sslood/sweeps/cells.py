"""What one cell of a sweep is made of, read from the params and checked before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sslood.core.discovery import classes_in, names_in
from sslood.core.errors import InputError
from sslood.core.settings import checked, near, read_section, typed
from sslood.nets import objectives as kinds
from sslood.nets.inference.embed import EmbedSettings
from sslood.nets.networks.build import find_backbone, full_name
from sslood.nets.probing.probes import KNNProbeSettings, LinearProbeSettings
from sslood.nets.selfsup.objective import Plan, plan_of
from sslood.nets.selfsup.variants import constants_of, overridden
from sslood.ood import posthoc, stochastic
from sslood.ood.kit.detector import Detector
from sslood.sweeps.evaluated import Detectors, Evaluation
from sslood.sweeps.grids import OBJECTIVE, SEED, Factors, Sweep, name_of

ROOMS = {"posthoc": posthoc, "stochastic": stochastic}
BACKBONE, AUGMENT = "backbone.", "augment."  # what stands before a size of the backbone, a key of the views


@dataclass(frozen=True)
class Places:
    """FILE:KEY of the sections of the params that cells are made of."""

    objectives: str
    recipe: str  # augment.pretrain
    sizes: str  # of the backbone
    embed: str
    probe: str
    posthoc: str
    stochastic: str


@dataclass(frozen=True)
class Cell:
    """One combination of levels: how its encoder is trained, and the full name of its network."""

    factors: Factors
    plan: Plan
    arch: str

    @property
    def name(self) -> str:
        return name_of(self.factors)

    @property
    def seed(self) -> int:
        return self.factors[SEED]


def read_cells(
    sweep: Sweep, shared: Mapping[str, Any], backbone: str, places: Places, where: str
) -> list[Cell]:
    """Return the cells of a sweep; InputError that names the cell for what no training takes.

    shared: the section `pretrain`; where: FILE:KEY of the sweep.
    """
    sections, sizes = read_section(places.objectives), read_section(places.sizes)
    names = names_in(kinds)
    found = []
    for factors in sweep.cells:
        at = f"{where} ({name_of(factors)})"
        base, constants = constants_of(str(factors[OBJECTIVE]), sections, names, places.objectives)
        changes, own_sizes = _sorted(factors)
        plan = plan_of(base, shared, overridden(constants, changes, at), at, places.recipe)
        arch = full_name(backbone, checked(find_backbone(backbone).Settings, {**sizes, **own_sizes}, at))
        found.append(Cell(factors, plan, arch))
    return found


def _sorted(factors: Factors) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the changes of an objective's constants, and those of the backbone's sizes.

    A single key of the views stands before the same one of a factor `augment`.
    """
    changes: dict[str, Any] = {}
    views: dict[str, Any] = {}
    sizes: dict[str, Any] = {}
    for name, level in factors.items():
        if name.startswith(BACKBONE):
            sizes[name.removeprefix(BACKBONE)] = level
        elif name.startswith(AUGMENT):
            views[name.removeprefix(AUGMENT)] = level
        elif name not in (OBJECTIVE, SEED):
            changes[name] = level
    if views and isinstance(own := changes.get("augment", {}), Mapping):  # of another type: the plan says so
        changes["augment"] = {**own, **views}
    return changes, sizes


def read_evaluation(names: Sequence[str], places: Places, where: str) -> Evaluation:
    """Return what is done with every cell; `names`: of detectors, whose settings stand in their sections.

    Raises InputError for an unknown detector, and for wrong settings.
    """
    probe = read_section(places.probe)
    rooms = {key: classes_in(room, Detector) for key, room in ROOMS.items()}
    detectors: Detectors = {}
    for name in names:
        room = next((key for key in rooms if name in rooms[key]), None)
        if room is None:
            known = [one for room in rooms.values() for one in room]
            raise InputError(f"{where}.detectors: unknown name {name!r}{near(name, known)}")
        place = str(getattr(places, room))
        kind = rooms[room][name]
        own = read_section(place).get(name, {})
        detectors[name] = kind, checked(kind.Settings, own, f"{place}.{name}")
    # a sweep tries nothing on known OOD images: one copy of one of them is the least that an embedding holds
    embed = {**read_section(places.embed), "shots": 1, "copies": 1}
    return Evaluation(
        checked(EmbedSettings, embed, places.embed),
        checked(KNNProbeSettings, probe.get("knn", {}), f"{places.probe}.knn"),
        checked(LinearProbeSettings, {**probe.get("linear", {}), "shares": []}, f"{places.probe}.linear"),
        detectors,
        typed(int, probe.get("images", 0), f"{places.probe}.images"),
    )
