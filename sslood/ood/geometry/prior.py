"""The prior of a stochastic model as the state of a detector."""

import numpy as np

from sslood.core.errors import InputError
from sslood.ood.kit.outputs import Outputs


def prior_state(source: Outputs) -> dict[str, np.ndarray]:
    """Return the arrays of the prior; InputError if the embeddings do not hold it."""
    if source.prior is None:
        raise InputError(
            f"{source.name}: these embeddings were written without the model's prior; run `dvc repro embed`"
        )
    return dict(vars(source.prior))
