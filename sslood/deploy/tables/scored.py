"""Decisions about the vectors of a table, in batches, from the table to a table of scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.deploy.pictures import COLUMNS
from sslood.deploy.scorer import Decisions, Deployed
from sslood.deploy.tables.reading import BATCH, VectorTable
from sslood.deploy.tables.writing import growing
from sslood.deploy.thresholds import check_rate, discoveries
from sslood.ood.kit.network_detector import Progress


@dataclass(frozen=True)
class Counts:
    """How many vectors were scored, and how many of them are OOD."""

    total: int
    ood: int


def known_columns(metadata: Mapping[str, Any]) -> Sequence[str]:
    """Return the names of the columns that a detector was fitted to, [] if it does not say."""
    known = metadata.get("columns", [])
    return [str(name) for name in known] if isinstance(known, list) else []


def values_of(ids: Sequence[Any], decisions: Decisions) -> dict[str, Sequence[Any]]:
    """Return a batch of decisions as columns of a table of scores: those of `COLUMNS`."""
    found: tuple[Any, ...] = (
        ids,
        decisions.scores,
        decisions.p_values,
        decisions.is_ood,
        decisions.predicted,
    )
    return dict(zip(COLUMNS, found, strict=True))


def score_table(
    scorer: Deployed,
    table: VectorTable,
    out: str | Path,
    *,
    fdr: float | None = None,
    batch_size: int = BATCH,
    progress: Progress = lambda count: None,
) -> Counts:
    """Write the scores of all vectors of a table as `out`, CSV or parquet, and return their numbers.

    One batch is in memory at a time; with `fdr`, by which all are judged together, their p-values too.
    Raises InputError for what a table can lack, and for vectors that are not those of the detector's model.
    """
    if fdr is not None:
        check_rate(fdr, scorer.calibrated.fewest)
    table.check_ids()
    width, known = table.width, scorer.metadata["feature_dim"]
    if width != known:
        raise InputError(
            f"{table.path}: vectors are {width} wide, but the detector was fitted to vectors that are "
            f"{known} wide"
        )
    p_values: list[np.ndarray] = []
    total = ood = 0

    def together() -> np.ndarray | None:
        if fdr is None:
            return None
        return discoveries(np.concatenate(p_values), fdr, scorer.calibrated.fewest)

    with growing(out, together) as add:
        for batch in table.batches(batch_size):
            if len(batch):
                decisions = scorer.decide_vectors(batch.vectors, batch.logits)
                add(values_of(batch.ids, decisions))
                total, ood = total + len(batch), ood + int(decisions.is_ood.sum())
                if fdr is not None:
                    p_values.append(decisions.p_values)
            progress(len(batch))
        if not total:
            raise InputError(f"{table.path}: no row has a finite vector")
    found = together()
    return Counts(total, ood if found is None else int(found.sum()))
