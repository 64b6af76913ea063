"""All probes of one model, from its embeddings."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from sslood.core.errors import LeftOut
from sslood.core.files import load_tensors
from sslood.core.needs import CLASSIFIED, Need, Needs, check_needs
from sslood.nets.probing.probes import (
    KNNProbeSettings,
    LinearProbeSettings,
    accuracies,
    at_most,
    classified,
    knn_scores,
    probe_few_labels,
    probe_knn,
    probe_linear,
    read_splits,
    rounded,
)

NEEDS: Needs = (CLASSIFIED,)
Judge = Callable[[np.ndarray, np.ndarray], dict[str, float]]


def probe_model(
    path: str,
    meta: Mapping[str, Any],
    knn: KNNProbeSettings,
    linear: LinearProbeSettings,
    *,
    seed: int,
    judge_head: Judge,
    most: int = 0,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the records of the embeddings file `path`: knn, linear, linear_<share>, head, transfer_<set>,
    knn_on_<set> and head_on_<set> of sets with role shifted.

    And {name: reason} of those that its sets do not allow.
    meta: metadata of the file. most: images of ID train, and of each transfer set's, that a probe with all
    labels learns from, at most, each class in proportion, 0 = all. seed: of that draw and of few labels.
    judge_head: what logits [N, K], labels [N] of the model's own head on ID test say about its mistakes.
    """
    sets, classes = read_splits(path, meta["id"]), len(meta["classes"])
    records: dict[str, dict[str, Any]] = {}
    reasons: dict[str, str] = {}

    def add(name: str, needs: Needs, labels: np.ndarray, probe: Callable[[], dict[str, Any]]) -> None:
        try:
            check_needs(needs, labels)
            records[name] = probe()
        except LeftOut as reason:
            reasons[name] = reason.reason

    train, test = sets["train"][1], sets["test"][1]
    some = at_most(sets, most, seed)
    add(
        "knn",
        (*NEEDS, Need(images=min(knn.k))),
        some["train"][1],
        lambda: probe_knn(some, knn, classes=classes),
    )
    add("linear", NEEDS, train, lambda: probe_linear(some, linear.l2, classes=classes))
    for share in linear.shares:
        few = partial(probe_few_labels, sets, share, linear.l2, classes=classes, seed=seed)
        add(f"linear_{share:g}", NEEDS, train, few)
    if meta["model_metadata"]["head_classes"] is not None:
        logits = load_tensors(path, only=[f"{meta['id']}.test.logits"])[0].popitem()[1]
        head = lambda: classified(logits, test) | rounded(judge_head(logits, test))  # noqa: E731
        add("head", (Need("test", classes=1),), test, head)
    for name, entry in meta["sets"].items():
        if entry["role"] == "transfer":
            whole = read_splits(path, name)
            other = at_most(whole, most, seed)
            count = max(int(truth.max()) for _, truth in whole.values()) + 1  # train may lack a class
            transfer = partial(probe_linear, other, linear.l2, classes=count)
            add(f"transfer_{name}", NEEDS, other["train"][1], transfer)
        elif entry.get("is_shifted"):
            images = load_tensors(path)[0]
            truth, queries = (images[f"{name}.test.{part}"] for part in ("labels", "features"))
            known, need = truth >= 0, (Need("test", classes=1),)
            if "knn" in records:
                chosen = partial(_knn_on, some["train"], records["knn"], classes=classes)
                add(f"knn_on_{name}", need, truth, partial(chosen, queries[known], truth[known]))
            if "head" in records:
                logits_on = images[f"{name}.test.logits"]
                add(f"head_on_{name}", need, truth, partial(classified, logits_on[known], truth[known]))
    return records, reasons


def _knn_on(
    train: tuple[np.ndarray, np.ndarray],
    record: Mapping[str, Any],
    queries: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
) -> dict[str, Any]:
    """Return the accuracies of the nearest neighbours of `record` on other images of the ID classes."""
    k, temperature = record["k"], record["temperature"]
    scores = knn_scores(*train, queries, classes=classes, ks=[k], temperature=temperature)
    return rounded(accuracies(scores[k], labels))
