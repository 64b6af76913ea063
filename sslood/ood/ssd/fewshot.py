"""Evaluation of SSD_k: repeats with different known OOD images, which leave the test set."""

import numpy as np

from sslood.core.seeding import numpy_stream
from sslood.ood.kit.outputs import Embeddings, Outputs
from sslood.ood.kit.results import Results, outputs_to_test
from sslood.ood.measures.metrics import METRICS, ood_metrics
from sslood.ood.ssd.ssdk import (
    InDistribution,
    ScoredRows,
    SsdkSettings,
    fit_in_distribution,
    fit_shots,
    pick_shots,
    score_repeat,
)


def evaluate(file: Embeddings, settings: SsdkSettings, seed: int, results: Results, progress) -> None:
    """Add one model's SSD_k metrics and scores to `results`; `progress` is called after each set.

    Metrics are means over the repeats, with the standard deviation under `<metric>_std`. The score of an
    ID image depends on the OOD set; under the ID set's own name stands its mean over the sets.
    """
    train, tests = file.outputs(file.id, "train").features, outputs_to_test(file)
    inside = fit_in_distribution(train, settings.clusters, seed, f"{file.path}, {file.id}.train")
    id_test = with_distance(inside, tests[file.id])
    found, first_id, here = {}, [], f"{file.model}.ssdk"
    for name in file.ood_sets:
        repeats = evaluate_set(file, name, id_test, tests[name], inside, settings, seed)
        found[name] = over_repeats(
            [ood_metrics(id_scores, ood_scores) for id_scores, ood_scores, _ in repeats]
        )
        id_scores, ood_scores, kept = repeats[0]
        results.scores |= {f"{here}.{name}": ood_scores, f"{here}.{name}.index": kept}
        results.scores[f"{here}.{file.id}.{name}"] = id_scores
        first_id.append(id_scores)
        progress()
    results.scores[f"{here}.{file.id}"] = np.mean(first_id, axis=0)
    results.models[file.model] = {"ssdk": found}
    results.roles |= file.roles


def with_distance(inside: InDistribution, outputs: Outputs) -> ScoredRows:
    """Return the features of a test split and their distances to ID train."""
    return ScoredRows(outputs.features, inside.distance(outputs.features))


def evaluate_set(
    file: Embeddings,
    name: str,
    id_test: ScoredRows,
    outputs: Outputs,
    inside: InDistribution,
    settings: SsdkSettings,
    seed: int,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return (ID scores, OOD scores, places kept) of each repeat; the picks are the same for every model."""
    shots, ood, where = file.shots(name), with_distance(inside, outputs), f"{file.path}, {name}"
    labels = np.full(len(outputs), -1) if outputs.labels is None else outputs.labels
    repeats = []
    for repeat in range(settings.repeats):
        picked = pick_shots(shots.index, labels, settings, numpy_stream(seed, "ssdk", name, repeat), where)
        outside = fit_shots(inside, shots.features[picked], where)
        repeats.append(score_repeat(inside, outside, id_test, ood, shots.index[picked]))
    return repeats


def over_repeats(metrics: list[dict]) -> dict[str, float | int]:
    """Return the mean of each metric, its standard deviation as `<metric>_std`, the sizes, and `repeats`."""
    mean = {key: float(np.mean([one[key] for one in metrics])) for key in METRICS}
    degrees = min(1, len(metrics) - 1)  # n - 1, and 0 for a single repeat
    spread = {f"{key}_std": float(np.std([one[key] for one in metrics], ddof=degrees)) for key in METRICS}
    return {**metrics[0], **mean, **spread, "repeats": len(metrics)}
