"""All probes of one model, from its embeddings."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sslood.core.files import load_tensors
from sslood.nets.probing.probes import (
    KNNProbeSettings,
    LinearProbeSettings,
    classified,
    probe_few_labels,
    probe_knn,
    probe_linear,
    read_splits,
    rounded,
)

Judge = Callable[[np.ndarray, np.ndarray], dict[str, float]]


def probe_model(
    path: str,
    meta: Mapping[str, Any],
    knn: KNNProbeSettings,
    linear: LinearProbeSettings,
    *,
    seed: int,
    judge_head: Judge,
) -> dict[str, dict[str, Any]]:
    """Return the records of the embeddings file `path`: knn, linear, linear_<share>, head, transfer_<set>.

    meta: metadata of the file. seed: of the draws of few labels. judge_head: what logits [N, K], labels [N]
    of the model's own head on ID test say about its mistakes.
    """
    sets = read_splits(path, meta["id"])
    classes = len(meta["classes"])
    records = {
        "knn": probe_knn(sets, knn, classes=classes),
        "linear": probe_linear(sets, linear.l2, classes=classes),
    }
    for share in linear.shares:
        records[f"linear_{share:g}"] = probe_few_labels(sets, share, linear.l2, classes=classes, seed=seed)
    if meta["model_metadata"]["head_classes"] is not None:
        logits = load_tensors(path, only=[f"{meta['id']}.test.logits"])[0].popitem()[1]
        labels = sets["test"][1]
        records["head"] = classified(logits, labels) | rounded(judge_head(logits, labels))
    for name, entry in meta["sets"].items():
        if entry["role"] == "transfer":
            other = read_splits(path, name)
            count = int(other["train"][1].max()) + 1
            records[f"transfer_{name}"] = probe_linear(other, linear.l2, classes=count)
    return records
