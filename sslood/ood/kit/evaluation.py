"""What the stages posthoc and stochastic do with one model: choose, fit, score the test images."""

from collections.abc import Iterator, Mapping
from typing import Any

from sslood.core.settings import autos
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.outputs import Embeddings
from sslood.ood.kit.results import Results, outputs_to_test, score_sets
from sslood.ood.kit.search import best_settings, tuning_of
from sslood.ood.measures.metrics import ood_metrics


def evaluate(
    file: Embeddings, kinds: Mapping[str, tuple[type[Detector], Any]], results: Results, *, device: str
) -> Iterator[tuple[str, Detector | None]]:
    """Add the settings, metrics and scores of each detector on one model to `results`.

    kinds: name -> (class, settings); settings that are "auto" are chosen by `best_settings`. Yields (name,
    fitted detector), with None for a detector if the model lacks what it reads. Raises InputError as
    `Detector.fit` and `tuning_of` do.
    """
    train, validation = (file.outputs(file.id, split) for split in ("train", "validation"))
    tests = outputs_to_test(file)
    results.roles |= file.roles
    searches = any(autos(settings) for _, settings in kinds.values())
    tuning = tuning_of(file) if searches else None
    for name, (kind, settings) in kinds.items():
        suits = kind(settings).suits(train)
        if tuning is None or not autos(settings):
            results.record_settings(settings, name)
        elif suits:
            settings, tried = best_settings(kind, settings, tuning, seed=results.seed, device=device)
            results.record_choice(settings, f"{file.model}.{name}", tuning.source, tried)
        if not suits:
            yield name, None
            continue
        detector = kind(settings, seed=results.seed, device=device).fit(train, validation)
        results.add(file.model, name, score_sets(detector, tests))
        yield name, detector


def sign_check(detector: Detector, file: Embeddings) -> dict[str, Any]:
    """Return a fitted detector's fixed sign, with its AUROC for ID validation against each tuning set."""
    inside = detector.score(file.outputs(file.id, "validation"))
    outside = {name: detector.score(file.outputs(name, "validation")) for name in file.tuning_sets}
    aurocs = {name: ood_metrics(inside, scores)["auroc"] for name, scores in outside.items()}
    return {"value": "larger = more OOD", "source": "declared", "validation_auroc": aurocs}
