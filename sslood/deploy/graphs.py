"""The scores of detectors as tensor operations that an ONNX graph can hold, one function a detector.

Each takes the fitted state (name -> tensor) and the settings, and returns a function of the model's outputs
(part -> float64 [N, .]) that gives float64 [N]: the numbers of the detector's own `score`, which
tests/deploy/test_export.py compares. What a detector learned enters the graph as constants.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslood.ood.geometry.covariance import Whitening

Tensors = dict[str, Tensor]
Scoring = Callable[[Tensors], Tensor]
Form = Callable[[Tensors, Any], Scoring]


def log_of_rest(logits: Tensor) -> Tensor:
    """log(1 - max softmax), as `sslood.ood.kit.log_softmax.log_of_rest`: [N]."""
    top = logits.argmax(1, keepdim=True)
    others = torch.where(torch.arange(logits.shape[1]) == top, -torch.inf, logits)
    gap = logits.amax(1) - torch.logsumexp(others, 1)
    return -(gap.clamp(min=0.0) + torch.log(1.0 + torch.exp(-gap.abs())))


def free_energy(state: Tensors, features: Tensor) -> Tensor:
    """-log sum_c exp(w_c z + b_c): [N]."""
    return -torch.logsumexp(head_logits(state, features), 1)


def head_logits(state: Tensors, features: Tensor) -> Tensor:
    return features @ state["weight"].double().T + state["bias"].double()


def length(rows: Tensor) -> Tensor:
    """Euclidean norm of each row: [N]."""
    return (rows * rows).sum(1).sqrt()


def direction(rows: Tensor) -> Tensor:
    """rows / (norm + 1e-10), as `sslood.ood.geometry.directions.normalise`."""
    return rows / (length(rows)[:, None] + 1e-10)


def squared_distances(means: Tensor, roots: Tensor) -> Callable[[Tensor], Tensor]:
    """Return rows z [N, D] -> min_g (z - mu_mg)^T (L_m L_m^T)^-1 (z - mu_mg): [N, M].

    As `nearest_squared_distance` for each of M covariances with factors `roots` [M, D, D] and G means each,
    `means` [M, G, D]: all at once, so that a graph of many classes is no longer than that of one.
    """
    centres = means.mean(1, keepdim=True)
    whitenings = [Whitening(root.numpy()) for root in roots]
    steps = [
        (parts[0][0], *(torch.stack([_tensor(part[place]) for part in parts]) for place in (1, 2)))
        for parts in zip(*(whitening.steps for whitening in whitenings), strict=True)
    ]
    moved = _whiten(means - centres, steps)
    norms, count = (moved * moved).sum(2), means.shape[1]
    first = count * torch.arange(len(means))[:, None]

    def distances(rows: Tensor) -> Tensor:
        white = _whiten(rows - centres, steps)
        if count > 1:
            nearest = (norms[:, None] - 2.0 * (white @ moved.mT)).argmin(2)
            white = white - moved.flatten(0, 1)[first + nearest]
        else:
            white = white - moved
        return (white * white).sum(2).T

    return distances


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))


def _whiten(rows: Tensor, steps: list[tuple[slice, Tensor, Tensor]]) -> Tensor:
    """Return L_m^-1 z of rows z [M, N, D], as `Whitening`."""
    done: list[Tensor] = []
    for place, left, inverse in steps:
        rest = rows[:, :, place]
        if done:
            rest = rest - torch.cat(done, 2) @ left
        done.append(rest @ inverse)
    return torch.cat(done, 2)


def _nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return products [N, k] and rows [N, k] of the bank of largest product, largest first."""
    return (direction(queries).float() @ bank.T).topk(k, dim=1)


def _largest(rows: Tensor, pruned: float) -> Tensor:
    """1 where a feature is among the largest of its row, else 0, as `sslood.ood.geometry.shaping.largest`."""
    kept = max(1, rows.shape[1] - round(rows.shape[1] * pruned))
    places = rows.topk(kept, dim=1).indices
    return torch.zeros_like(rows).scatter(1, places, torch.ones_like(rows[:, :kept]))


def _scaling(rows: Tensor, kept: Tensor) -> Tensor:
    whole, part = rows.sum(1), (rows * kept).sum(1)
    return torch.where(part > 0, whole / torch.where(part > 0, part, 1.0), 1.0).exp()[:, None]


def _energy(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    return -settings.temperature * torch.logsumexp(found["logits"] / settings.temperature, 1)


def _entropy(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    logs = torch.log_softmax(found["logits"], 1)
    return -(logs.exp() * logs).sum(1)


def _gen(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    logs = torch.log_softmax(found["logits"], 1)
    logs = logs.topk(min(settings.top, logs.shape[1]), dim=1).values
    rest = torch.cat([log_of_rest(found["logits"])[:, None], torch.log(1.0 - logs[:, 1:].exp())], 1)
    return (settings.gamma * (logs + rest)).exp().sum(1)


def _knn(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    places = _nearest(state["bank"], found["features"], settings.k)[1][:, settings.k - 1]
    return length(direction(found["features"]).float().double() - state["bank"][places].double())


def _nnguide(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    guidance = _nearest(state["bank"], found["features"], settings.k)[0].double().mean(1)
    return free_energy(state, found["features"]) * guidance


def _mahalanobis(state: Tensors, settings: Any) -> Scoring:
    distances = squared_distances(state["means"][None], state["root"][None])
    return lambda found: distances(found["features"])[:, 0]


def _rmds(state: Tensors, settings: Any) -> Scoring:
    classes = squared_distances(state["means"][None], state["root"][None])
    whole = squared_distances(state["mean"][None], state["whole_root"][None])
    return lambda found: (classes(found["features"]) - whole(found["features"]))[:, 0]


def _gmm(state: Tensors, settings: Any) -> Scoring:
    width = state["means"].shape[-1]
    half_log_det = state["roots"].diagonal(dim1=1, dim2=2).log().sum(1)
    constants = state["log_weights"] - half_log_det - 0.5 * width * math.log(2 * math.pi)
    distances = squared_distances(state["means"], state["roots"])
    return lambda found: -torch.logsumexp(constants - 0.5 * distances(found["features"]), 1)


def _ssd(state: Tensors, settings: Any) -> Scoring:
    distances = squared_distances(state["means"], state["roots"])

    def score(found: Tensors) -> Tensor:
        rows = (direction(found[settings.layer]) - state["mean"]) / state["std"]
        return distances(rows).amin(1)

    return score


def _kl_matching(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    logs = torch.log_softmax(found["logits"], 1)
    p = logs.exp()
    return ((p * logs).sum(1, keepdim=True) - p @ state["log_templates"].T).amin(1)


def _residual(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    return length((found["features"] - state["mean"]) @ state["basis"])


def _vim(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    virtual = length((found["features"] - state["origin"]) @ state["basis"])
    return state["alpha"] * virtual + free_energy(state, found["features"])


def _react(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    return free_energy(state, torch.minimum(found["features"], state["limit"]))


def _ash(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    rows = found["features"]
    kept = _largest(rows, settings.pruned)
    if settings.variant == "b":
        return free_energy(state, kept * (rows.sum(1) / kept.sum(1))[:, None])
    shaped = rows * kept
    return free_energy(state, shaped * _scaling(rows, kept) if settings.variant == "s" else shaped)


def _scale(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    rows = found["features"]
    return free_energy(state, rows * _scaling(rows, _largest(rows, settings.pruned)))


def _fdbd(state: Tensors, settings: Any) -> Scoring:
    weight = state["weight"].double()
    apart = length((weight[:, None] - weight).flatten(0, 1)).view(len(weight), -1)
    inverse = torch.where(apart == 0, 0.0, 1.0 / apart) / (len(weight) - 1)

    def score(found: Tensors) -> Tensor:
        logits = head_logits(state, found["features"])
        gaps = logits.amax(1, keepdim=True) - logits
        boundary = (gaps * inverse[logits.argmax(1)]).sum(1)
        return -boundary / length(found["features"] - state["mean"]).clamp(min=1e-12)

    return score


def _neco(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    rows = (found["features"] - state["mean"]) / state["std"]
    share = length(rows @ state["basis"]) / length(rows).clamp(min=1e-12)
    return -found["logits"].amax(1) * share


def _she(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    return -(found["features"] * state["patterns"][found["logits"].argmax(1)]).sum(1)


def _msp(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    return log_of_rest(found["logits"])


def _max_logit(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    return -found["logits"].amax(1)


def _temperature_scaling(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    return log_of_rest(found["logits"] / state["temperature"])


def _dice(state: Tensors, settings: Any, found: Tensors) -> Tensor:
    return free_energy(state, found["features"])


def _plain(score: Callable[[Tensors, Any, Tensors], Tensor]) -> Form:
    """Return the form of a detector that prepares nothing."""
    return lambda state, settings: partial(score, state, settings)


FORMS: dict[str, Form] = {
    "mahalanobis": _mahalanobis,
    "rmds": _rmds,
    "gmm": _gmm,
    "ssd": _ssd,
    "fdbd": _fdbd,
    "msp": _plain(_msp),
    "max_logit": _plain(_max_logit),
    "energy": _plain(_energy),
    "entropy": _plain(_entropy),
    "gen": _plain(_gen),
    "temperature_scaling": _plain(_temperature_scaling),
    "kl_matching": _plain(_kl_matching),
    "knn": _plain(_knn),
    "nnguide": _plain(_nnguide),
    "residual": _plain(_residual),
    "vim": _plain(_vim),
    "react": _plain(_react),
    "ash": _plain(_ash),
    "scale": _plain(_scale),
    "dice": _plain(_dice),
    "neco": _plain(_neco),
    "she": _plain(_she),
}
