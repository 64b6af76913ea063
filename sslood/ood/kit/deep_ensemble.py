"""One model of several seeds as a deep ensemble, from the cached logits of its members.

Lakshminarayanan, Pritzel and Blundell: Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles, NeurIPS 2017, arXiv:1612.01474: the mean of the members' probabilities.
"""

from collections.abc import Sequence

import numpy as np
import torch

from sslood.core.errors import InputError
from sslood.ood.kit.committee import COMMITTEE
from sslood.ood.kit.outputs import Embeddings, Outputs
from sslood.ood.kit.results import Results, outputs_to_test


def evaluate_deep_ensemble(name: str, files: Sequence[Embeddings], results: Results) -> float:
    """Add the rows of COMMITTEE of the model `name`, of members `files`, to results; return its accuracy.

    The accuracy is the share of ID test images whose label has the largest mean probability. Raises
    InputError if a member has no classifier, or its sets differ from those of the first.
    """
    tests = [outputs_to_test(file) for file in files]
    scores: dict[str, dict[str, np.ndarray]] = {detector: {} for detector in COMMITTEE}
    accuracy = float("nan")
    for key in tests[0]:
        members = [_member(test, key, tests[0][key]) for test in tests]
        p = torch.stack([torch.from_numpy(np.asarray(one, np.float64)).softmax(1) for one in members])
        for detector, score in COMMITTEE.items():
            scores[detector][key] = score(p).numpy()
        if key == files[0].id:
            predicted = p.mean(0).argmax(1).numpy()
            results.add_classes(name, predicted)
            accuracy = float((predicted == np.asarray(tests[0][key].labels)).mean())
    results.roles |= files[0].roles
    for detector, found in scores.items():
        results.add(name, detector, found)
    return accuracy


def _member(tests: dict[str, Outputs], key: str, first: Outputs) -> np.ndarray:
    """Return a member's logits [N, K] of a set."""
    if key not in tests or not np.array_equal(np.asarray(tests[key].labels), np.asarray(first.labels)):
        raise InputError(
            f"{first.name}: another member has other images of {key}; write both with `dvc repro embed`"
        )
    if tests[key].logits is None:
        raise InputError(
            f"{tests[key].name}: holds no logits; deep ensembles are of classifiers: take the model out of "
            "runs.deep_models"
        )
    return tests[key].need("logits")
