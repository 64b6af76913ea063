"""The classes that an ensemble and its members predict, held against the labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sslood.core.rounding import decimal
from sslood.nets.probing.probes import expected_calibration_error
from sslood.ood.measures.risk import own_mistakes
from sslood.views.ensemble import Member, mean_probabilities


def class_predictions(
    members: Sequence[Member], logits: Sequence[np.ndarray], labels: np.ndarray, classes: int
) -> dict[str, Any]:
    """Return how well the classes are told: logits [N, K] of each member, labels [N] of ID test images.

    accuracy: of the class with the largest mean probability (`mean_probabilities`). mistakes: its error, its
    ece and what `own_mistakes` measures. members: {name: {"accuracy", "ece"} on the images of the classes
    that the member knows}, without those of which there is no image. InputError if probabilities are NaN.
    """
    mean = mean_probabilities(members, logits, classes)
    with np.errstate(divide="ignore"):
        logs = np.log(mean)  # whose softmax is `mean` again
    accuracy = float((mean.argmax(1) == labels).mean())
    found = {"ece": expected_calibration_error(logs, labels), **own_mistakes(logs, labels)}
    own = {}
    for member, values in zip(members, logits, strict=True):
        known = np.isin(labels, list(member.head_classes))
        if known.any():
            truth = np.searchsorted(member.head_classes, labels[known])
            right = float((values[known].argmax(1) == truth).mean())
            ece = expected_calibration_error(values[known], truth)
            own[member.name] = {"accuracy": decimal(right), "ece": decimal(ece)}
    rounded = {key: decimal(value) for key, value in found.items()}
    return {"accuracy": accuracy, "mistakes": {"error": decimal(1 - accuracy), **rounded}, "members": own}
