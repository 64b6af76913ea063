"""The objectives by name. A new one: a module with a subclass of `Objective`, and a line here.

Modules are imported by name and only the one that runs, so that editing an objective re-runs the
pretraining of that objective alone (dvc.yaml names the module as a dep).
"""

from importlib import import_module

from stages.core.errors import known
from stages.selfsup import classifier, contrastive, stochastic, teacher, turns
from stages.selfsup.losses import contrastive as contrastive_losses
from stages.selfsup.objective import Objective

# What several objectives build on. Named here, so that every pretraining has it as a dep: an objective's
# module imports nothing of the project but itself that this one does not (tests/selfsup/test_objectives.py).
SHARED = (classifier, contrastive, contrastive_losses, stochastic, teacher, turns)

# name, which is also the module's -> class
OBJECTIVES = {
    "scratch": "Scratch",
    "simclr": "SimCLR",
    "supcon": "SupCon",
    "barlow_twins": "BarlowTwins",
    "vicreg": "VICReg",
    "byol": "BYOL",
    "dino": "DINO",
    "rotation": "Rotation",
    "rotpred": "RotPred",
    "supce": "SupCE",
    "bayes_h_barlow_twins": "BayesHBarlowTwins",
    "bayes_z_barlow_twins": "BayesZBarlowTwins",
    "bayes_h_vicreg": "BayesHVICReg",
    "bayes_z_vicreg": "BayesZVICReg",
}


def objective_class(name: str) -> type[Objective]:
    """Return the class of the objective `name`; InputError listing the known ones."""
    known(name, "objective", OBJECTIVES)
    return getattr(import_module(f"stages.selfsup.{name}"), OBJECTIVES[name])
