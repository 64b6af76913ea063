"""JPEG as an augmentation: what is left of each image of a batch after saving and opening it.

ITU-T Recommendation T.81 (1992), Annexes A and K, with the choices of libjpeg: YCbCr of JFIF, chroma of half
the width and height, its scale of qualities, and triangular weights where chroma is enlarged again.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

COLUMNS = 2  # uniform draws of an image: whether, and the quality
HIGHEST = 95  # above it a file grows and looks the same
BLOCK = 8


def _packed(rows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return rows of eight numbers below 128 as a number each.

    A GPU unpacks them where it is: as a tensor they would be copied to it in every step.
    """
    return tuple(int.from_bytes(bytes(row), "little") for row in rows)


# quantisation steps at quality 50, by frequency down and across (T.81, tables K.1 and K.2)
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
_LIGHT, _COLOUR = _packed(_LUMINANCE), _packed(_CHROMINANCE)
_TO_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def stored(x: Tensor, draws: Tensor, probability: float, lowest: int) -> Tensor:
    """Return images [N, C, H, W] in [0, 1], each with this probability as JPEG of a random quality.

    Qualities are uniform over the whole numbers from `lowest` to the larger of it and 95. draws: uniform
    [N, 2].
    """
    highest = max(lowest, HIGHEST)
    quality = lowest + draws[:, 1] * (highest - lowest + 1)
    quality = quality.floor().clamp(max=highest)  # the sum may round up to the next
    return torch.where((draws[:, 0] < probability).view(-1, 1, 1, 1), jpeg(x, quality), x)


def jpeg(x: Tensor, quality: Tensor) -> Tensor:
    """Return images [N, C, H, W] in [0, 1], C = 1 or 3, as JPEG of their quality [N], 1 to 100, leaves them.

    Levels are whole 255ths, as in a file. Pillow's pictures differ by rounding, here and there.
    """
    levels = _rounded(x * 255)
    if x.shape[1] == 1:
        return _coded(levels, quality, _LIGHT) / 255
    light, colour = _rounded(_mixed(levels, _TO_YCBCR)).split((1, 2), 1)
    colour = _coded(_halved(colour + 128), quality, _COLOUR)
    colour = _doubled(colour, x.shape[-2:]) - 128
    light = _coded(light, quality, _LIGHT)
    return _rounded(_mixed(torch.cat((light, colour), 1), _TO_RGB)).clamp(0, 255) / 255


def steps(quality: Tensor, packed: Sequence[int]) -> Tensor:
    """Return the quantisation steps [N, 8, 8] of qualities [N], as libjpeg scales a table."""
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    places = 8 * torch.arange(BLOCK, device=quality.device)
    base = torch.stack([(row >> places) & 255 for row in packed]).to(quality.dtype)
    return ((base * scale.view(-1, 1, 1) + 50) / 100).floor().clamp(1, 255)


def _rounded(x: Tensor) -> Tensor:
    return (x + 0.5).floor()


def _mixed(x: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Mix three channels by a matrix, as numbers: a tensor of them would be copied to a GPU too."""
    first, second, third = x.unbind(1)
    return torch.stack([a * first + b * second + c * third for a, b, c in matrix], 1)


def _halved(x: Tensor) -> Tensor:
    """Return the means of squares of four pixels, halves rounded down and up in turn, as libjpeg does."""
    sums = F.avg_pool2d(_padded(x, 2, 2 * BLOCK), 2, divisor_override=1)  # whole blocks across, as libjpeg
    return ((sums + 1 + torch.arange(sums.shape[3], device=x.device) % 2) / 4).floor()


def _doubled(x: Tensor, size: torch.Size) -> Tensor:
    """Enlarge planes to twice their size or one less, halves rounded up and down in turn, as libjpeg does."""
    x = x[..., : (size[1] + 1) // 2]
    how = "bilinear" if x.shape[3] > 2 else "nearest"  # libjpeg too
    x = F.interpolate(x, scale_factor=2, mode=how)[..., : size[0], : size[1]]
    return ((16 * x + 8 - torch.arange(size[1], device=x.device) % 2) / 16).floor()


def _padded(x: Tensor, *multiples: int) -> Tensor:
    """Repeat the last row and column until height and width are multiples of these."""
    down, across = (-size % multiple for size, multiple in zip(x.shape[-2:], multiples, strict=True))
    return F.pad(x, (0, across, 0, down), mode="replicate") if down or across else x


def _coded(x: Tensor, quality: Tensor, packed: Sequence[int]) -> Tensor:
    """Return planes [N, C, H, W] of levels after the cosine transform of blocks has been quantised."""
    height, width = x.shape[-2:]
    x = _padded(x, BLOCK, BLOCK) - 128
    blocks = x.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(3, 4)  # N C rows columns 8 8
    cosines = _cosines(x)
    step = steps(quality, packed)[:, None, None, None]
    eighths = (8 * (cosines @ blocks @ cosines.T)).round()  # libjpeg's transform has whole ones
    blocks = eighths.sign() * _rounded(eighths.abs() / (8 * step)) * step
    x = (cosines.T @ blocks @ cosines).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return (x[..., :height, :width] + 128 + 0.5).floor().clamp(0, 255)


def _cosines(x: Tensor) -> Tensor:
    """Return the orthonormal cosine transform of eight values (DCT-II), [8, 8], in the dtype of x."""
    place = torch.arange(BLOCK, dtype=x.dtype, device=x.device)
    waves = torch.cos(math.pi / BLOCK * place[:, None] * (place + 0.5)) * math.sqrt(2 / BLOCK)
    return torch.where(place[:, None] == 0, waves / math.sqrt(2), waves)
