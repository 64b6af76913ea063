"""Pillow's operations on batches of images: for each image its own operations and amounts.

RandAugment and PixMix draw from them. What Pillow does with 8 bits is done here with floats on the same 256
levels, rounded where Pillow rounds, so results agree with Pillow's within a level (see the tests). No shape
depends on a value, and nothing is read back from the device, but on a CPU, which does each operation with
the images alone that it is for.
"""

from collections.abc import Callable, Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sslood.data.images.colours import luma

OPERATIONS = (
    *("identity", "autocontrast", "equalize", "posterize", "solarize", "rotate", "shear_x", "shear_y"),
    *("translate_x", "translate_y", "colour", "contrast", "brightness", "sharpness"),
)
AT = {name: place for place, name in enumerate(OPERATIONS)}
_SLACK = 2e-3  # Pillow cuts fractions off: a whole number that rounding made a little smaller must stay


def operate(x: Tensor, kind: Tensor, amount: Tensor) -> Tensor:
    """Return images [N, J, C, H, W] in [0, 1]: the J operations `kind` [N, J] on each of `x` [N, C, H, W].

    kind: places in OPERATIONS. amount [N, J], in the dtype of x: bits that posterize keeps; the level, 0 to
    256, from which solarize inverts; degrees of rotate, anticlockwise; slope of the shears, about the upper
    left corner; pixels of the translations, to the left or up; factor of colour, contrast, brightness and
    sharpness, 1 = no change. The others have none. What an operation brings in from outside is black. Of one
    channel, colour changes nothing.
    """
    v = (x * 255).round()
    out = _by_kind(v, kind, amount) if reads_back(x) else _operated(v, kind, amount, OPERATIONS)
    return out / 255


def reads_back(x: Tensor) -> bool:
    """Whether values of x may decide shapes: a GPU would wait for them, a compiler would end its graph."""
    return x.is_cpu and not torch.compiler.is_compiling()


def _by_kind(v: Tensor, kind: Tensor, amount: Tensor) -> Tensor:
    """Return levels [N, J, C, H, W], one operation after the other, each of the images that it is for."""
    out = v.unsqueeze(1).repeat(1, kind.shape[1], 1, 1, 1)
    for name in OPERATIONS[1:]:
        rows, places = (kind == AT[name]).nonzero(as_tuple=True)
        if len(rows):
            one = _operated(v[rows], kind[rows, places, None], amount[rows, places, None], (name,))
            out[rows, places] = one[:, 0]
    return out


def _operated(v: Tensor, kind: Tensor, amount: Tensor, names: Collection[str]) -> Tensor:
    """Return levels [N, J, C, H, W] after the operations of each image, all of them in `names`."""
    out = v.unsqueeze(1).expand(*kind.shape, *v.shape[1:])
    each = (*kind.shape, 1, 1, 1)
    if not REFERENCES.keys().isdisjoint(names):
        out = _enhanced(v, kind, amount, names)
    if "posterize" in names:
        step = torch.where(kind == AT["posterize"], 2 ** (8 - amount), 1.0).view(each)
        out = (out / step).floor() * step
    if "solarize" in names:
        threshold = torch.where(kind == AT["solarize"], amount, 256.0).view(each)
        out = torch.where(out >= threshold, 255 - out, out)
    if not MOVES.isdisjoint(names):
        moved = _moved(out.flatten(0, 1), *_sources(kind, amount, *v.shape[-2:]))
        out = moved.view(out.shape)
    return out


def _enhanced(v: Tensor, kind: Tensor, factor: Tensor, names: Collection[str]) -> Tensor:
    """Return r + f (v - r) [N, J, C, H, W] on levels v [N, C, H, W]; r is what an operation leads from."""
    used = {name: of for name, of in REFERENCES.items() if name in names}
    place = picked(kind, {name: place for place, name in enumerate(used)}, torch.zeros_like(kind))
    factor = picked(
        kind, {"autocontrast": 0.0, "equalize": 0.0}, torch.where(kind >= AT["colour"], factor, 1.0)
    )
    rows = torch.arange(len(v), device=v.device)[:, None]
    start = torch.stack([of(v) for of in used.values()], 1)[rows, place]
    change = factor.view(*kind.shape, 1, 1, 1) * (v.unsqueeze(1) - start)
    return (start + change + _SLACK).floor().clamp(0, 255)


def picked(kind: Tensor, values: Mapping[str, Tensor | float], otherwise: Tensor) -> Tensor:
    """Return for each operation of `kind` its entry of `values`, a number or a tensor of kind's shape."""
    for name, value in values.items():
        otherwise = torch.where(kind == AT[name], value, otherwise)
    return otherwise


def _grey(v: Tensor) -> Tensor:
    return luma(v).round().expand_as(v)


def _mean(v: Tensor) -> Tensor:
    """Return the mean level of the grey image, everywhere."""
    return (luma(v).round().mean((1, 2, 3), keepdim=True) + 0.5).floor().expand_as(v)


def _smoothed(v: Tensor) -> Tensor:
    """Return 3 x 3 means in which the centre counts five times; the border as it is."""
    inner = v[..., 1:-1, 1:-1]
    mean = ((9 * F.avg_pool2d(v, 3, 1) + 4 * inner) / 13).round()
    return v + F.pad(mean - inner, (1, 1, 1, 1))


def _stretched(v: Tensor) -> Tensor:
    """Return each channel stretched to all levels; a channel of one level stays."""
    low, high = v.amin((2, 3), keepdim=True), v.amax((2, 3), keepdim=True)
    return torch.where(high > low, ((v - low) * 255 / (high - low).clamp(min=1)).floor(), v)


def _equalized(v: Tensor) -> Tensor:
    """Return each channel with an even histogram; one in which few levels occur stays."""
    level = v.long().flatten(2)
    counts = torch.zeros(*level.shape[:2], 256, dtype=v.dtype, device=v.device)
    counts = counts.scatter_add(2, level, torch.ones_like(v).flatten(2))  # whole numbers: exact in any order
    below = counts.cumsum(2) - counts
    last = counts.gather(2, level.amax(2, keepdim=True))
    step = ((level.shape[2] - last) / 255).floor()
    table = (((step / 2).floor() + below) / step.clamp(min=1)).floor().clamp(max=255)
    return torch.where(step.unsqueeze(3) > 0, table.gather(2, level).view_as(v), v)


REFERENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "brightness": torch.zeros_like,
    "contrast": _mean,
    "colour": _grey,
    "sharpness": _smoothed,
    "autocontrast": _stretched,
    "equalize": _equalized,
}
MOVES = frozenset(("rotate", "shear_x", "shear_y", "translate_x", "translate_y"))


def _sources(kind: Tensor, amount: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return (x, y) [M, H, W]: where each pixel comes from, in pixels from the upper left corner."""
    y, x = (torch.arange(size, dtype=amount.dtype, device=amount.device) + 0.5 for size in (height, width))
    y = y[:, None]

    def of(name: str) -> Tensor:
        return torch.where(kind == AT[name], amount, 0.0).view(-1, 1, 1)

    angle = torch.deg2rad(of("rotate"))
    cos, sin = angle.cos(), angle.sin()
    right, down = x - width / 2, y - height / 2
    source_x = cos * right - sin * down + width / 2 + of("shear_x") * y + of("translate_x")
    source_y = sin * right + cos * down + height / 2 + of("shear_y") * x + of("translate_y")
    return source_x, source_y


def _moved(v: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return levels [M, C, H, W] sampled at x, y [M, H, W], bilinear, black outside."""
    height, width = v.shape[-2:]
    grid = torch.stack((2 * x / width - 1, 2 * y / height - 1), -1)
    inside = ((x >= 0) & (x < width) & (y >= 0) & (y < height)).unsqueeze(1)
    sampled = F.grid_sample(v, grid, padding_mode="border", align_corners=False)
    return torch.where(inside, (sampled + _SLACK).floor(), 0.0)
