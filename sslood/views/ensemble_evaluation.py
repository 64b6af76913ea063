"""What the stage ensemble does with its members: choose, score the test images, predict classes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch

from sslood.core.errors import InputError, LeftOut
from sslood.ood.kit.drawing import mc_dropout
from sslood.ood.kit.results import Results
from sslood.views.choosing import choose
from sslood.views.classes import class_predictions
from sslood.views.ensemble import (
    EnsembleSettings,
    Member,
    Progress,
    Setting,
    evaluate,
    mean_probabilities,
    rows_left_out,
)
from sslood.views.published_steps import add_published
from sslood.views.sweeping import sweep_of


class Images(NamedTuple):
    """What an ensemble sees: uint8 images [N, C, H, W] and labels [N] of the ID set, images of the others.

    tuning: OOD images to choose settings on, None without. tests: of OOD and shifted sets. classes: how many.
    """

    validation: np.ndarray
    validation_labels: np.ndarray
    tuning: np.ndarray | None
    test: np.ndarray
    test_labels: np.ndarray
    tests: Mapping[str, np.ndarray]
    classes: int


def evaluate_ensemble(
    model: str,
    members: Sequence[Member],
    images: Images,
    settings: EnsembleSettings,
    results: Results,
    *,
    published: Mapping[str, Setting] = MappingProxyType({}),
    device: torch.device | str = "cpu",
    progress: Progress = lambda count: None,
) -> str:
    """Add the ensemble's settings, metrics, scores and class predictions to `results`; return a summary.

    Where there is nothing to choose settings on, and no fallback, rows that need one are left out.
    published: a setting of some OOD sets, for the row of `published_steps`. Raises InputError, naming model
    and set, if a score is NaN.
    """
    with _named(model):
        setting = _choose(model, members, images, settings, results, device, progress)
    tests = {results.id: images.test, **images.tests}
    swept = settings.candidates if setting and settings.sweep else []
    steps = {name: [one] for name, one in published.items()} | {results.id: list(published.values())}
    also = {name: [*swept, *steps.get(name, [])] for name in tests}
    with _named(model):
        found = evaluate(
            members, setting, tests, classes=images.classes, also=also, device=device, progress=progress
        )
    rows, logits = found.rows, found.logits
    if settings.draws:
        assert members[0].network is not None
        for name, own in tests.items():
            rows[name]["member_mc_dropout"] = mc_dropout(members[0].network, own, settings.draws, progress)
    for detector in rows[results.id]:
        results.add(model, detector, {name: own[detector] for name, own in rows.items()})
    if published:
        add_published(results, model, found.swept, published)
    if setting and settings.sweep:
        ood = list(results.models[model]["eloc"])
        with _named(model):
            shown = sweep_of(members, found, swept, id_name=results.id, ood=ood, classes=images.classes)
        results.extra["sweep"] = {model: {"chosen": setting._asdict(), **shown}}
    probabilities = mean_probabilities(members, logits[results.id], images.classes)
    results.add_classes(model, probabilities.argmax(axis=1))
    predictions = class_predictions(members, logits[results.id], images.test_labels, images.classes)
    results.extra |= {key: {model: value} for key, value in predictions.items()}
    told = f"T {setting.temperature:g}, epsilon {setting.epsilon:g}" if setting else "no setting"
    return f"{told}, accuracy {predictions['accuracy']:.3f}"


@contextmanager
def _named(model: str) -> Iterator[None]:
    """Context in which the message of an InputError begins with the model."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{model}, {error}") from None


def _choose(
    model: str,
    members: Sequence[Member],
    images: Images,
    settings: EnsembleSettings,
    results: Results,
    device: torch.device | str,
    progress: Progress,
) -> Setting | None:
    """Return the setting and record how it came about; None, with rows left out, if there is none.

    Where none can be chosen, it is `fallback` of the settings, if any: members that know all classes leave
    none out to choose it on.
    """
    try:
        setting, candidates = choose(
            members, images.validation, images.validation_labels, images.tuning, settings,
            device=device, progress=progress,
        )  # fmt: skip
    except LeftOut as reason:
        if settings.fallback:
            temperature, epsilon = settings.fallback
            fixed = Setting(temperature, epsilon)
            source = f"ensemble.fallback, since the ensemble {reason.reason}"
            results.chosen["setting"] = {"value": fixed._asdict(), "source": source}
            return fixed
        for detector in rows_left_out(len(members)):
            results.leave_out(reason, model, detector)
        return None
    on = {"tuning": "the tuning sets", "leftout": "the classes that each member leaves out"}
    source = f"highest AUROC of {results.id}.validation against {on[settings.choose_on]}"
    how = {"source": source, "candidates": candidates} if candidates else {"source": "params"}
    results.chosen["setting"] = {"value": setting._asdict(), **how}
    return setting
