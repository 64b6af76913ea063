"""Colours and blur of batches of images, each with numbers of its own.

They agree with torchvision within rounding (see the tests).
"""

import math

import torch
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision rounds it
_BRIGHTNESS, _CONTRAST, _SATURATION, HUE = range(4)
BLUR_SIGMA = (0.1, 2.0)


def luma(x: Tensor) -> Tensor:
    """Return the grey image [N, 1, H, W]; one channel is its own."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(1)


def colour_jitter(x: Tensor, order: Tensor, factors: Tensor, turn: Tensor | None) -> Tensor:
    """Apply to images [N, C, H, W] in [0, 1] the operations 0 to 3 in each image's `order` [N, 4].

    0 brightness, 1 contrast, 2 saturation with `factors` [N, 3]; 3 turns the hue by `turn` [N] (in
    circles; None: not at all). The first three are x <- clamp(f x + (1 - f) ref), ref = 0, the mean
    grey, or the grey image, which one channel is itself. So that no image waits for another's order, hue
    stands once in the middle, with three affine steps before and three after it; a step that is not an
    image's turn has f = 1.
    """
    does = 3 if x.shape[1] == 3 else 2
    factors = torch.cat((factors[:, :does], torch.ones_like(factors[:, : 4 - does])), 1)  # 1: nothing to do
    if turn is None:
        for place in range(4):
            x = _affine(x, order[:, place], factors)
        return x
    hue_at = (order == HUE).to(torch.uint8).argmax(1)
    idle = torch.full_like(hue_at, HUE)
    for place in range(3):
        x = _affine(x, torch.where(place < hue_at, order[:, place], idle), factors)
    x = turn_hue(x, turn)
    for place in range(1, 4):
        x = _affine(x, torch.where(place > hue_at, order[:, place], idle), factors)
    return x


def _affine(x: Tensor, operation: Tensor, factors: Tensor) -> Tensor:
    factor = factors.gather(1, operation[:, None]).view(-1, 1, 1, 1)
    operation = operation.view(-1, 1, 1, 1)
    grey = luma(x)
    mean = grey.mean((1, 2, 3), keepdim=True)
    rest = (1 - factor) * (operation == _CONTRAST) * mean + (1 - factor) * (operation == _SATURATION) * grey
    return torch.addcmul(rest, x, factor).clamp_(0, 1)


def turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of RGB images [N, 3, H, W] by `turn` [N] circles, value and saturation kept.

    With m = min, D = max - min and the hue h in [0, 6), a channel is m + D clamp(w(h), 0, 1), w = |h - 3| - 1
    for red, 2 - |h - 2| for green, 2 - |h - 4| for blue: the inverse of HSV without looking up sectors.
    """
    red, green, blue = x.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - least
    divisor = chroma.clamp(min=1e-12)  # of a grey pixel, whose hue is nothing: 0 / 1e-12
    sector = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2 * divisor, red - green + 4 * divisor),
    )
    hue = torch.remainder(sector / divisor + 6 * turn.view(-1, 1, 1), 6)
    waves = torch.stack(((hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs()), 1)
    return torch.addcmul(least.unsqueeze(1), waves.clamp_(0, 1), chroma.unsqueeze(1))


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image with its own `sigma` [N] (pixels), edges reflected, kernel cut at 3 * 2 pixels."""
    rows = _blur_matrix(sigma, x.shape[-2])
    columns = rows if x.shape[-1] == x.shape[-2] else _blur_matrix(sigma, x.shape[-1])
    return (rows.unsqueeze(1) @ x @ columns.mT.unsqueeze(1)).clamp(0, 1)  # weights sum to 1 but for rounding


def _blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """Return [N, size, size]: row o holds the Gaussian around o, what falls outside folded back in."""
    radius = min(math.ceil(3 * BLUR_SIGMA[1]), size - 1)
    source = torch.arange(size, device=sigma.device, dtype=sigma.dtype)
    mirrors = torch.stack((source, -source, 2 * (size - 1) - source))  # a source pixel and its two images
    mirrors[1, 0] = mirrors[2, -1] = math.inf  # an edge pixel is not its own mirror image
    distance = (mirrors[:, None, :] - source[:, None]).abs()
    weights = torch.exp(-0.5 * (distance / sigma.view(-1, 1, 1, 1)) ** 2)
    weights = (weights * (distance <= radius)).sum(1)
    return weights / weights.sum(-1, keepdim=True)
