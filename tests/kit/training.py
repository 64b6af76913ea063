"""Settings of short trainings: the keys that all trainings share, and every objective's own."""

from typing import Any

import yaml

from sslood.core.closure import TOP
from sslood.core.settings import checked
from tests.kit.registries import OBJECTIVES, objective_class

SHARED: dict[str, Any] = {
    "epochs": 2, "batch_size": 32, "accumulate": 1, "optimiser": "sgd", "lr": 0.05, "final_lr": 0.0,
    "schedule": "constant", "warmup_epochs": 0, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0,
    "clip": 0.0, "precision": "float32", "save_every": 1,
}  # fmt: skip
PRETRAIN = {**SHARED, "knn_every": 0}
PROFILE = yaml.safe_load((TOP / "profiles/objectives.yaml").read_text(encoding="utf-8"))["objectives"]
TRAINED = [name for name in OBJECTIVES if objective_class(name).trains]


def objective_settings(name: str, **changes: Any) -> Any:
    """Return an objective's settings as the profile `objectives` has them, but for `changes`."""
    own = {key: value for key, value in PROFILE[name].items() if key not in {*PRETRAIN, "augment"}}
    return checked(objective_class(name).Settings, {**own, **changes}, f"objectives.{name}")
