"""What the stages posthoc and stochastic do with one model: choose, fit, score the test images."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sslood.core.errors import LeftOut
from sslood.core.settings import autos
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.outputs import Embeddings
from sslood.ood.kit.results import Results, outputs_to_test, score_sets
from sslood.ood.kit.search import Tuning, best_settings, tuning_of
from sslood.ood.measures.metrics import ood_metrics

UNTUNED = "the detector's own, since no set has role tuning"


def evaluate(
    file: Embeddings, kinds: Mapping[str, tuple[type[Detector], Any]], results: Results, *, device: str
) -> Iterator[tuple[str, Detector | None]]:
    """Add the settings, metrics and scores of each detector on one model to `results`.

    kinds: name -> (class, settings); settings that are "auto" are chosen by `best_settings`, or are the
    class's own without a tuning set. Yields (name, fitted detector), with None for one that is left out, or
    if the model lacks what it reads. Raises InputError as `Detector.fit` does.
    """
    train, validation = (file.outputs(file.id, split) for split in ("train", "validation"))
    tests = outputs_to_test(file)
    results.roles |= file.roles
    if (logits := tests[file.id].logits) is not None:
        results.add_classes(file.model, logits.argmax(axis=1))
    searches = any(autos(settings) for _, settings in kinds.values())
    tuning = tuning_of(file) if searches and file.tuning_sets else None
    for name, (kind, settings) in kinds.items():
        detector = None
        if kind(settings).suits(train):
            try:
                chosen = _settings(kind, settings, tuning, results, f"{file.model}.{name}", device)
                detector = kind(chosen, seed=results.seed, device=device).fit(train, validation)
                results.add(file.model, name, score_sets(detector, tests))
            except LeftOut as reason:
                results.leave_out(reason, file.model, name)
        if not autos(settings):
            results.record_settings(settings, name)
        yield name, detector


def _settings(
    kind: type[Detector], settings: Any, tuning: Tuning | None, results: Results, prefix: str, device: str
) -> Any:
    """Return the settings with a value for each that is "auto", and record it; LeftOut if there is none."""
    names = autos(settings)
    if not names:
        return settings
    if tuning is None:
        chosen = replace(settings, **{name: getattr(kind.Settings(), name) for name in names})
        results.record_settings(chosen, prefix)
        for name in names:
            results.chosen[f"{prefix}.{name}"]["source"] = UNTUNED
        return chosen
    chosen, tried = best_settings(kind, settings, tuning, seed=results.seed, device=device)
    results.record_choice(chosen, prefix, tuning.source, tried)
    return chosen


def sign_check(detector: Detector, file: Embeddings) -> dict[str, Any]:
    """Return a fitted detector's fixed sign, with its AUROC for ID validation against each tuning set."""
    inside = detector.score(file.outputs(file.id, "validation"))
    outside = {name: detector.score(file.outputs(name, "validation")) for name in file.tuning_sets}
    aurocs = {name: ood_metrics(inside, scores)["auroc"] for name, scores in outside.items()}
    return {"value": "larger = more OOD", "source": "declared", "validation_auroc": aurocs}
