"""What is found by name, for tests and benchmarks that go through all of it."""

from sslood.core.discovery import class_named, classes_in, names_in
from sslood.nets import objectives
from sslood.nets.selfsup.objective import Objective
from sslood.ood import network, posthoc, stochastic
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.network_detector import NetworkDetector

DETECTORS = classes_in(posthoc, Detector)
STOCHASTIC = classes_in(stochastic, Detector)
NETWORK = classes_in(network, NetworkDetector)
OBJECTIVES = names_in(objectives)


def objective_class(name: str) -> type[Objective]:
    """Return the class of an objective."""
    return class_named("sslood.nets.objectives", name, Objective, "objective")
