"""Evaluation of SSD_k: repeats with different known OOD images, which leave the test set."""

from collections.abc import Callable

import numpy as np

from sslood.core.errors import LeftOut
from sslood.core.needs import check_needs
from sslood.core.seeding import numpy_stream
from sslood.ood.kit.outputs import Embeddings, Outputs
from sslood.ood.kit.results import Results, outputs_to_test, rounded
from sslood.ood.measures.metrics import METRICS, ood_metrics
from sslood.ood.ssd.ssdk import (
    InDistribution,
    ScoredRows,
    SSDkSettings,
    fit_in_distribution,
    fit_shots,
    pick_shots,
    score_repeat,
)


def evaluate_few_shot(
    file: Embeddings, settings: SSDkSettings, seed: int, results: Results, progress: Callable[[], object]
) -> None:
    """Add one model's SSD_k metrics and scores to `results`; `progress` is called for each set.

    A set that does not meet the needs is left out. Metrics are means over the repeats, with the standard
    deviation under `<metric>_std`; scores those of the first repeat. The score of an ID image depends on the
    OOD set: under <id>.<set>, and under the ID set's own name its mean over the sets.
    """
    train, tests = file.outputs(file.id, "train").need("features"), outputs_to_test(file)
    inside = fit_in_distribution(train, settings.clusters, seed, f"{file.path}, {file.id}.train")
    id_test = with_distance(inside, tests[file.id])
    metrics, first_id, prefix = {}, [], f"{file.model}.ssdk"
    for name in file.ood_sets:
        progress()
        try:
            repeats = evaluate_set(file, name, id_test, tests[name], inside, settings, seed)
        except LeftOut as reason:
            results.leave_out(reason, file.model, "ssdk", name)
            continue
        metrics[name] = over_repeats(
            [ood_metrics(id_scores, ood_scores) for id_scores, ood_scores, _ in repeats]
        )
        id_scores, ood_scores, kept = repeats[0]
        results.scores |= {f"{prefix}.{name}": ood_scores, f"{prefix}.{name}.index": kept}
        results.scores[f"{prefix}.{file.id}.{name}"] = id_scores
        first_id.append(id_scores)
    results.roles |= file.roles
    if not metrics:
        return
    mean = np.mean(first_id, axis=0)
    results.scores[f"{prefix}.{file.id}"] = rounded(mean, mean)
    results.models[file.model] = {"ssdk": metrics}


def with_distance(inside: InDistribution, outputs: Outputs) -> ScoredRows:
    """Return the features of a test split and their distances to ID train."""
    return ScoredRows(outputs.need("features"), inside.distance(outputs.need("features")))


def evaluate_set(
    file: Embeddings,
    name: str,
    id_test: ScoredRows,
    outputs: Outputs,
    inside: InDistribution,
    settings: SSDkSettings,
    seed: int,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return (ID scores, OOD scores, indices kept) of each repeat; the picks are the same for every model."""
    shots, ood, where = file.shots(name), with_distance(inside, outputs), f"{file.path}, {name}"
    labels = np.full(len(outputs), -1) if outputs.labels is None else outputs.labels
    check_needs(settings.needs, labels, where=f"{where}: SSD_k ")
    repeats = []
    for repeat in range(settings.repeats):
        picked = pick_shots(shots.index, labels, settings, numpy_stream(seed, "ssdk", name, repeat), where)
        outside = fit_shots(inside, shots.features[picked], where)
        id_scores, ood_scores, kept = score_repeat(inside, outside, id_test, ood, shots.index[picked])
        repeats.append((rounded(id_scores, id_scores), rounded(ood_scores, id_scores), kept))
    return repeats


def over_repeats(metrics: list[dict[str, float | int]]) -> dict[str, float | int]:
    """Return the mean of each metric, its standard deviation as `<metric>_std`, the sizes, and `repeats`."""
    mean = {key: float(np.mean([one[key] for one in metrics])) for key in METRICS}
    degrees = min(1, len(metrics) - 1)  # n - 1, and 0 for a single repeat
    spread = {f"{key}_std": float(np.std([one[key] for one in metrics], ddof=degrees)) for key in METRICS}
    return {**metrics[0], **mean, **spread, "repeats": len(metrics)}
