"""What is found by name, for tests and benchmarks that go through all of it."""

from sslood.core.discovery import class_named, classes_in, names_in
from sslood.nets import objectives
from sslood.nets.selfsup.objective import Objective
from sslood.ood import network, posthoc, stochastic
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.network_detector import NetworkDetector
from sslood.ood.ssd.ssd import SSD

DETECTORS = classes_in(posthoc, Detector)
STOCHASTIC = classes_in(stochastic, Detector)
NETWORK = classes_in(network, NetworkDetector)
OBJECTIVES = names_in(objectives)
LEARNING = {**DETECTORS, "ssd": SSD, **STOCHASTIC}  # all that score a model's outputs


def example(name: str, *, seed: int = 0, **settings) -> Detector:
    """Return a detector of a model's outputs with these settings, and the defaults for the others."""
    kind = LEARNING[name]
    return kind(kind.Settings(**settings), seed=seed)


def defaults(kinds) -> dict:
    """Return {"<name>__<setting>": its default} of the detectors of a stage."""
    return {
        f"{name}__{key}": value
        for name, kind in kinds.items()
        for key, value in vars(kind.Settings()).items()
    }


def objective_class(name: str) -> type[Objective]:
    """Return the class of an objective."""
    return class_named("sslood.nets.objectives", name, Objective, "objective")
