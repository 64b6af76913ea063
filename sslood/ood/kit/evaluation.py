"""What the stages posthoc and stochastic do with one model: choose, fit, score the test images."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sslood.core.errors import InputError, LeftOut
from sslood.core.settings import autos
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.members import Combinations, Scored, add_combinations
from sslood.ood.kit.outputs import Embeddings
from sslood.ood.kit.results import Results, outputs_to_test, score_sets
from sslood.ood.kit.search import Held, Tuning, best_settings, held_out
from sslood.ood.measures.metrics import ood_metrics

UNTUNED = "the detector's own, since no set has role tuning"


def evaluate(
    file: Embeddings,
    kinds: Mapping[str, tuple[type[Detector], Any]],
    results: Results,
    *,
    device: str,
    combinations: Combinations | None = None,
) -> Iterator[tuple[str, Detector | None]]:
    """Add the settings, metrics and scores of each detector on one model to `results`.

    kinds: name -> (class, settings); settings that are "auto" are chosen by `best_settings`, or are the
    class's own without a tuning set. Yields (name, fitted detector), with None for one that is left out, or
    if the model lacks what it reads. Last come the rows of `combinations`, made of the detectors' scores.
    Raises InputError as `Detector.fit` does.
    """
    searches = combinations or any(autos(settings) for _, settings in kinds.values())
    images, tests = held_out(file, file.tuning_sets if searches else ()), outputs_to_test(file)
    results.roles |= file.roles
    if (logits := tests[file.id].logits) is not None:
        results.add_classes(file.model, logits.argmax(axis=1))
    scored = Scored(file.model, images.source)
    for name, (kind, settings) in kinds.items():
        detector = None
        if not kind(settings).suits(images.train):
            scored.missing[name] = f"the model lacks what it reads ({', '.join(kind.reads)})"
        else:
            try:
                detector, held = _fitted(kind, settings, images, results, f"{file.model}.{name}", device)
                scores = score_sets(detector, tests)
                results.add(file.model, name, scores, on_validation=kind.on_validation)
                if combinations:
                    held = held or images.held(detector)
                    scored.add(name, held, scores[file.id], on_validation=kind.on_validation)
            except LeftOut as reason:
                detector = None
                results.leave_out(reason, file.model, name)
                scored.missing[name] = f"that is left out: {reason.reason}"
        if not autos(settings):
            results.record_settings(settings, name)
        yield name, detector
    add_combinations(combinations or {}, scored, results)


def _fitted(
    kind: type[Detector], settings: Any, images: Tuning, results: Results, prefix: str, device: str
) -> tuple[Detector, Held | None]:
    """Return the detector, fitted, with a value for each setting that is "auto", which it records.

    With it come its scores of held-out images, where a choice has made them. LeftOut if there is no value.
    """
    names = autos(settings)
    if names and images.sets:
        best = best_settings(kind, settings, images, seed=results.seed, device=device)
        results.record_choice(best.detector.settings, prefix, images.source, best.candidates)
        return best.detector, best.held
    if names:
        settings = replace(settings, **{name: getattr(kind.Settings(), name) for name in names})
        results.record_settings(settings, prefix)
        for name in names:
            results.chosen[f"{prefix}.{name}"]["source"] = UNTUNED
    return kind(settings, seed=results.seed, device=device).fit(images.train, images.validation), None


def sign_check(detector: Detector, file: Embeddings) -> dict[str, Any]:
    """Return a fitted detector's fixed sign, with its AUROC for ID validation against each tuning set.

    Raises InputError, naming model, detector and set, if a score is NaN.
    """
    inside = detector.score(file.outputs(file.id, "validation"))
    outside = {name: detector.score(file.outputs(name, "validation")) for name in file.tuning_sets}
    if reason := Held(inside, outside).lacking(file.id):
        raise InputError(f"{file.model}, {type(detector).__name__}: {reason}")
    aurocs = {name: ood_metrics(inside, scores)["auroc"] for name, scores in outside.items()}
    return {"value": "larger = more OOD", "source": "declared", "validation_auroc": aurocs}
