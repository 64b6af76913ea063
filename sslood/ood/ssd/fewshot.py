"""Evaluation of SSD_k: repeats with different known OOD images, which leave the test set."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sslood.core.errors import LeftOut
from sslood.core.needs import check_needs
from sslood.core.seeding import numpy_stream
from sslood.ood.kit.outputs import Embeddings, Outputs
from sslood.ood.kit.results import Results, outputs_to_test, rounded
from sslood.ood.measures.metrics import METRICS, nan_among, ood_metrics
from sslood.ood.ssd.ratio import LikelihoodRatio
from sslood.ood.ssd.ssdk import PaperForm, SSDkSettings, fit_in_distribution, pick_shots

SHOWN = 5  # sets that are named in the last line


@dataclass(frozen=True)
class Repeat:
    """Scores of the ID images and of the OOD images that are left, their indices, and what was chosen."""

    inside: np.ndarray
    outside: np.ndarray
    kept: np.ndarray
    chosen: dict[str, Any]


def evaluate_few_shot(
    file: Embeddings,
    settings: SSDkSettings,
    seed: int,
    results: Results,
    progress: Callable[[], object],
    row: str = "ssdk",
) -> None:
    """Add one model's SSD_k metrics and scores to `results` as `row`; `progress` is called for each set.

    A set that does not meet the needs is left out. Metrics are means over the repeats, with the standard
    deviation under `<metric>_std`; scores those of the first repeat. The score of an ID image depends on the
    OOD set: under <id>.<set>, and under the ID set's own name its mean over the sets.
    """
    train, tests = file.outputs(file.id, "train").need("features"), outputs_to_test(file)
    inside = fit_in_distribution(train, settings.clusters, seed, f"{file.path}, {file.id}.train")
    form: PaperForm | LikelihoodRatio = PaperForm(inside)
    if settings.form != "paper":
        form = LikelihoodRatio(inside, file.outputs(file.id, "validation").need("features"))
    id_rows = form.rows(tests[file.id].need("features"))
    metrics, first_id, prefix = {}, [], f"{file.model}.{row}"
    for name in file.ood_sets:
        progress()
        try:
            repeats = evaluate_set(file, name, id_rows, tests[name], form, settings, seed)
        except LeftOut as reason:
            results.leave_out(reason, file.model, row, name)
            continue
        metrics[name] = over_repeats(repeats)
        first = repeats[0]
        results.scores |= {f"{prefix}.{name}": first.outside, f"{prefix}.{name}.index": first.kept}
        results.scores[f"{prefix}.{file.id}.{name}"] = first.inside
        first_id.append(first.inside)
        if first.chosen:
            source = "likelihood of known images that were left out, one entry per repeat"
            results.chosen[f"{prefix}.{name}"] = {"value": [one.chosen for one in repeats], "source": source}
    results.roles |= file.roles
    if not metrics:
        return
    mean = np.mean(first_id, axis=0)
    results.scores[f"{prefix}.{file.id}"] = rounded(mean, mean)
    results.models.setdefault(file.model, {})[row] = metrics


def evaluate_set(
    file: Embeddings,
    name: str,
    id_rows: Any,
    outputs: Outputs,
    form: PaperForm | LikelihoodRatio,
    settings: SSDkSettings,
    seed: int,
) -> list[Repeat]:
    """Return each repeat, with other known images; these are the same for every model.

    Raises LeftOut if the set has too few images, or a score is NaN.
    """
    shots, where = file.shots(name), f"{file.path}, {name}"
    ood_rows: Any = form.rows(outputs.need("features"))
    labels = np.full(len(outputs), -1) if outputs.labels is None else outputs.labels
    check_needs(settings.needs, labels, where=f"{where}: SSD_k ")
    repeats = []
    for repeat in range(settings.repeats):
        picked = pick_shots(shots.index, labels, settings, numpy_stream(seed, "ssdk", name, repeat), where)
        known = shots.index[picked]
        fitted = form.fit(ood_rows[known], shots.features[picked], where)
        kept = np.setdiff1d(np.arange(len(outputs)), known)
        inside, outside = fitted.score(id_rows), fitted.score(ood_rows)[kept]
        if reason := nan_among({file.id: inside, name: outside}):
            raise LeftOut(reason, f"{where}: SSD_k ")
        repeats.append(Repeat(rounded(inside, inside), rounded(outside, inside), kept, fitted.record()))
    return repeats


def over_repeats(repeats: list[Repeat]) -> dict[str, float | int]:
    """Return the mean of each metric, its standard deviation as `<metric>_std`, the sizes, and `repeats`.

    And, where the known images were compared with SSD, `held_out` and `held_out_ssd` (AUROC, means) and
    `fallbacks`, the number of repeats that use SSD; where all repeats know the same images, `alike`: 1.
    """
    metrics = [ood_metrics(one.inside, one.outside) for one in repeats]
    mean = {key: float(np.mean([one[key] for one in metrics])) for key in METRICS}
    degrees = min(1, len(metrics) - 1)  # n - 1, and 0 for a single repeat
    spread = {f"{key}_std": float(np.std([one[key] for one in metrics], ddof=degrees)) for key in METRICS}
    found = {**metrics[0], **mean, **spread, "repeats": len(metrics)}
    chosen = [one.chosen for one in repeats]
    if all(one.get("held_out") is not None for one in chosen):
        held = {key: float(np.mean([one[key] for one in chosen])) for key in ("held_out", "held_out_ssd")}
        found |= held | {"fallbacks": sum(one["used"] == "ssd" for one in chosen)}
    if len({one.kept.tobytes() for one in repeats}) < min(2, len(repeats)):
        found["alike"] = 1
    return found


def fallbacks(results: Results) -> str:
    """Return where SSD_k uses SSD instead, in words; "" if nowhere."""
    rows = _holding(results, "fallbacks")
    if not rows:
        return ""
    count = sum(rows.values())
    named = _named(f"{where} {number}" for where, number in rows.items())
    repeats = "1 repeat" if count == 1 else f"{count} repeats"
    return f"; ssd itself is used in {repeats}, where it separates known images left out better: {named}"


def same_picks(results: Results) -> str:
    """Return where repeats know the same images, and what to do, in words; "" if nowhere."""
    rows = _holding(results, "alike")
    if not rows:
        return ""
    return (
        f"no spread over repeats for {_named(rows)}: they all know the same images, since ssdk.k takes the "
        "whole pool; keep more images in it (embed.shots)"
    )


def _holding(results: Results, key: str) -> dict[str, int]:
    """Return {"<model> on <set>": value}, and of rows that are not ssdk "<row> of <model> on <set>".

    Only entries whose value under `key` is there and not 0.
    """
    return {
        f"{'' if row == 'ssdk' else f'{row} of '}{model} on {name}": values[key]
        for model, detectors in results.models.items()
        for row, sets in detectors.items()
        for name, values in sets.items()
        if values.get(key)
    }


def _named(names: Iterable[str]) -> str:
    """Return the first names in a line, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
