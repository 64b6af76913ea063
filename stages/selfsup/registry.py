"""The objectives by name. A new one: a module with a subclass of `Objective`, and a line here.

Modules are imported by name and only the one that runs, so that editing an objective re-runs the
pretraining of that objective alone (dvc.yaml names the module as a dep).
"""

from importlib import import_module

from stages.core.errors import known
from stages.selfsup.objective import Objective

# name, which is also the module's -> class
OBJECTIVES = {
    "scratch": "Scratch",
    "simclr": "SimCLR",
    "supcon": "SupCon",
    "barlow_twins": "BarlowTwins",
    "vicreg": "VICReg",
}


def objective_class(name: str) -> type[Objective]:
    """Return the class of the objective `name`; InputError listing the known ones."""
    known(name, "objective", OBJECTIVES)
    return getattr(import_module(f"stages.selfsup.{name}"), OBJECTIVES[name])
