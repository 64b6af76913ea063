"""Detectors fitted to vectors of a model that is elsewhere: a detector file without a network.

from sslood.deploy.tables.fitted import fit_vectors

scorer = fit_vectors(vectors, alpha=0.05)  # float [N, D] of normal images
decisions = scorer.decide_vectors(others)  # scores, p_values, is_ood
"""

from collections.abc import Sequence
from typing import Any

from sslood.deploy.scorer import VECTORS
from sslood.nets.networks.card import ModelCard


def vector_card(
    width: int,
    classes: Sequence[str],
    *,
    head: bool = False,
    columns: Sequence[str] = (),
    name: str = VECTORS,
    id_name: str = "the given vectors",
    seed: int = 0,
) -> dict[str, Any]:
    """Return the metadata of a model that is elsewhere, for `save_deployed`.

    width: D of its vectors. classes: names; with `head` the model has a logit for each, in this order.
    columns: what held the vectors, so that other tables are read alike.
    """
    card = ModelCard(
        name=name,
        arch=VECTORS,
        objective="adopted",
        seed=seed,
        id=id_name,
        size=1,  # of pictures, of which there are none
        channels=1,
        mean=[0.0],
        std=[1.0],
        resize="none",
        classes=list(classes),
        feature_dim=width,
        head_classes=list(range(len(classes))) if head else None,
    )
    return card.metadata() | {"columns": list(columns)}
