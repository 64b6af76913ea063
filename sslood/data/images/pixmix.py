"""PixMix: images mixed with distorted copies of themselves and with pictures such as fractals.

Hendrycks et al. 2022, "PixMix: dreamlike pictures comprehensively improve safety measures", arXiv:2112.05135,
with all 13 operations, as OpenOOD trains with it. The pictures are those of a set with role `mixing`; the
paper's are a download, so with `fractals` say "PixMix (own fractals)".
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sslood.data.images.operations import OPERATIONS, operate, picked, reads_back
from sslood.data.images.placing import resize_matrix

_ONCE, _OPERATION, _ROUND = 5, 3, 5  # uniform draws of an image, of an operation, of a mixing
_TINY = 1e-37  # below every level: a power of it with a negative exponent is still a number


def columns(mixings: int) -> int:
    """Return the number of uniform draws of an image for at most so many mixings; 0 for none."""
    return _ONCE + _OPERATION * (mixings + 1) + _ROUND * mixings if mixings else 0


def pixmix(x: Tensor, draws: Tensor, pictures: Tensor, *, severity: float, beta: float) -> Tensor:
    """Return images [N, C, H, W] in [0, 1], mixed as the uniform `draws` [N, columns] decide.

    Starts from the image or, one time in two, from an operation on it. Mixes 0 to k times, by a sum or a
    product, with another operation on the image or with one picture. pictures: uint8 [M, C, H, W]. severity:
    upper end of the operations' levels. beta: of the Beta laws of the mixing's weights.
    """
    mixings = (draws.shape[1] - _ONCE - _OPERATION) // (_OPERATION + _ROUND)
    once, chosen, rounds = draws.split((_ONCE, _OPERATION * (mixings + 1), _ROUND * mixings), 1)
    start, count, which, top, left = once.unbind(1)
    source, product, branch, first, second = rounds.unflatten(1, (mixings, _ROUND)).unbind(2)
    mixes = torch.arange(mixings, device=x.device) < (count * (mixings + 1)).floor()[:, None]
    needed = torch.cat((start[:, None] < 0.5, mixes & (source < 0.5)), 1)
    drawn = operations(chosen.unflatten(1, (-1, _OPERATION)), severity, *x.shape[-2:])
    changed = _changed(x, *drawn, needed)
    picture = _cropped(pictures, which, top, left, x.dtype)
    mixed = torch.where(_each(needed[:, 0]), changed[:, 0], x)
    for turn in range(mixings):
        other = torch.where(_each(needed[:, turn + 1]), changed[:, turn + 1], picture)
        a, b = mixing_weights(branch[:, turn], first[:, turn], second[:, turn], beta)
        parts, times = (mixed, other, _each(a), _each(b)), product[:, turn] < 0.5
        mixed = _where(mixes[:, turn] & times, multiply, mixed, parts)
        mixed = _where(mixes[:, turn] & ~times, add, mixed, parts)
    return mixed


def _changed(x: Tensor, kind: Tensor, amount: Tensor, needed: Tensor) -> Tensor:
    """Return the images after each operation [N, J, C, H, W], of which a CPU does those `needed` [N, J]."""
    if not reads_back(x):
        return operate(x, kind, amount)
    image, place = needed.nonzero(as_tuple=True)
    changed = x.new_empty(*kind.shape, *x.shape[1:])
    changed[image, place] = operate(x[image], kind[image, place, None], amount[image, place, None])[:, 0]
    return changed


def _where(chosen: Tensor, mix: Callable[..., Tensor], otherwise: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Return mix(*parts) in [0, 1] of the images `chosen` [N]; a CPU writes those, in place."""
    if not reads_back(otherwise):
        return torch.where(_each(chosen), mix(*parts).clamp(0, 1), otherwise)
    image = chosen.nonzero()[:, 0]
    return otherwise.index_copy_(0, image, mix(*(part[image] for part in parts)).clamp_(0, 1))


def operations(draws: Tensor, severity: float, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return (kind, amount) [N, J] from uniform draws [N, J, 3], each operation at a level of its own.

    The level is uniform from 0.1 to `severity`; the ranges are AugMix's (arXiv:1912.02781).
    """
    kind = 1 + (draws[..., 0] * (len(OPERATIONS) - 1)).long()  # not the identity
    level = (0.1 + (severity - 0.1) * draws[..., 1]) / 10
    sign = torch.where(draws[..., 2] < 0.5, -1, 1)
    values = {
        "posterize": 4 - (4 * level).floor(),
        "solarize": 256 - (256 * level).floor(),
        "rotate": sign * (30 * level).floor(),
        **dict.fromkeys(("shear_x", "shear_y"), sign * 0.3 * level),
        "translate_x": sign * (width / 3 * level).floor(),
        "translate_y": sign * (height / 3 * level).floor(),
        **dict.fromkeys(("colour", "contrast", "brightness", "sharpness"), 1.8 * level + 0.1),
    }
    return kind, picked(kind, values, torch.zeros_like(level))


def mixing_weights(branch: Tensor, first: Tensor, second: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return (a, b) [N] of a mixing from uniform draws [N].

    One time in two a ~ Beta(beta, 1) and b ~ Beta(1, beta); else 1 + Beta(1, beta) and -Beta(1, beta).
    Inverse distribution functions: u^(1 / beta) ~ Beta(beta, 1), and one minus it ~ Beta(1, beta).
    """
    large, small = first ** (1 / beta), 1 - second ** (1 / beta)
    inner = branch < 0.5
    return torch.where(inner, large, 2 - large), torch.where(inner, small, -small)


def add(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return a x + b y, with black at -1 and white at 1."""
    return (a * (2 * x - 1) + b * (2 * y - 1) + 1) / 2


def multiply(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return x^a y^b, with white at 2."""
    return (2 * x) ** a * (2 * y).clamp(min=_TINY) ** b / 2


def _cropped(pictures: Tensor, which: Tensor, top: Tensor, left: Tensor, dtype: torch.dtype) -> Tensor:
    """Return for each image a picture [N, C, H, W] in [0, 1]: enlarged by 9 / 8 and cropped at random."""
    chosen = pictures[(which * len(pictures)).long()].to(dtype) / 255
    rows, columns = (
        _window(uniform, size) for uniform, size in zip((top, left), chosen.shape[-2:], strict=True)
    )
    return (rows.unsqueeze(1) @ chosen @ columns.mT.unsqueeze(1)).clamp(0, 1)


def _window(uniform: Tensor, size: int) -> Tensor:
    """Return matrices [N, size, size] that crop `size` pixels out of 9 / 8 times as many, at a whole one."""
    enlarged = size + size // 8
    start = (uniform * (enlarged - size + 1)).floor() * size / enlarged
    length = torch.full_like(start, size * size / enlarged)
    return resize_matrix(start, length, size, "bilinear", bounded=False)


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
