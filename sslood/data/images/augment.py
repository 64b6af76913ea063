"""Augmentation of whole batches on their device: every image its own draws, no branch on a value.

Crop, resize and flip are two matrix products; the colour jitter follows each image's own order of
operations; blur is two more products. Shapes are static and nothing reads a value back, so
`apply_draws` compiles as one graph. The distributions of the draws are torchvision's; the crop agrees with
Pillow within two grey levels, the colours with torchvision within rounding (see the tests).
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from sslood.core.errors import InputError
from sslood.core.settings import Settings, above, at_least, between, checked, read_section

TRIES = 10  # crop boxes drawn per image; the first that fits is taken (as torchvision does)
# columns of the uniform draws, fixed whatever the settings: changing one option leaves the rest alone
_AREA, _RATIO = slice(0, TRIES), slice(TRIES, 2 * TRIES)
_TOP, _LEFT, _FLIP, _JITTER, _GREY = range(2 * TRIES, 2 * TRIES + 5)
_BLUR, _SIGMA, _SOLARISE, _PAD_Y, _PAD_X = range(2 * TRIES + 5, 2 * TRIES + 10)
_ORDER, _FACTOR = slice(2 * TRIES + 10, 2 * TRIES + 14), slice(2 * TRIES + 14, 2 * TRIES + 18)
COLUMNS = 2 * TRIES + 18

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision rounds it
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)
_BLUR_SIGMA = (0.1, 2.0)
_SOLARISE_FROM = 128 / 255


_PROBABILITY = between(0, 1)


@dataclass(frozen=True)
class AugmentSettings(Settings):
    """What one view goes through, in this order: crop, jitter, grey, blur, solarise, flip.

    The default of every key is "off". The strength f of brightness, contrast and saturation draws a factor
    from [max(0, 1 - f), 1 + f].
    """

    crop_scale_min: Annotated[float, above(0), "smallest share of the area that a random crop keeps"] = 1.0
    crop_scale_max: Annotated[float, above(0), "largest share of the area that a random crop keeps"] = 1.0
    crop_ratio_min: Annotated[float, above(0), "smallest width / height of the crop"] = 3 / 4
    crop_ratio_max: Annotated[float, above(0), "largest width / height of the crop"] = 4 / 3
    interpolation: Annotated[Literal["bilinear", "bicubic"], "how a crop is enlarged"] = "bicubic"
    pad: Annotated[int, at_least(0), "largest shift in pixels, zeros coming in"] = 0
    flip: Annotated[float, _PROBABILITY, "probability of a left-right flip"] = 0.0
    jitter: Annotated[float, _PROBABILITY, "probability of the colour jitter as a whole"] = 0.0
    brightness: Annotated[float, at_least(0), "strength within the jitter"] = 0.0
    contrast: Annotated[float, at_least(0), "strength within the jitter"] = 0.0
    saturation: Annotated[float, at_least(0), "strength within the jitter"] = 0.0
    hue: Annotated[float, between(0, 0.5), "largest turn of the hue within the jitter, in circles"] = 0.0
    grey: Annotated[float, _PROBABILITY, "probability of a grey image"] = 0.0
    blur: Annotated[float, _PROBABILITY, "probability of a Gaussian blur"] = 0.0
    solarise: Annotated[float, _PROBABILITY, "probability of inverting what is above half"] = 0.0

    def _check(self) -> None:
        if not self.crop_scale_min <= self.crop_scale_max <= 1:
            raise InputError("use crop_scale_min <= crop_scale_max <= 1")
        if not self.crop_ratio_min <= self.crop_ratio_max:
            raise InputError("use crop_ratio_min <= crop_ratio_max")
        if self.pad and self.crops:
            raise InputError("choose either pad or a crop (crop_scale_min below 1), not both")

    @property
    def crops(self) -> bool:
        """Whether there is a random crop at all."""
        return self.crop_scale_min < 1


def read_recipe(where: str) -> AugmentSettings:
    """Return the recipe at FILE:KEY; InputError for a wrong key or value."""
    return checked(AugmentSettings, read_section(where), where)


def draw(n: int, generator: torch.Generator) -> Tensor:
    """Return the uniform draws [n, COLUMNS] of n images, on the generator's device."""
    return torch.rand(n, COLUMNS, generator=generator, device=generator.device)


def augment(images: Tensor, settings: AugmentSettings, generator: torch.Generator) -> Tensor:
    """Return one augmented view of uint8 images [N, C, H, W] (C = 1 or 3) as floats in [0, 1].

    The generator must be on the images' device. Saturation, hue and grey leave one channel alone.
    """
    return apply_draws(images, draw(len(images), generator), settings)


def apply_draws(images: Tensor, draws: Tensor, settings: AugmentSettings) -> Tensor:
    """Return the view that the uniform `draws` [N, COLUMNS] decide, in their dtype: a pure function."""
    x = images.to(draws.dtype) / 255
    x = _place(x, draws, settings)
    if settings.jitter:
        x = _jitter(x, draws, settings)
    if settings.grey and x.shape[1] == 3:
        x = torch.where(_chosen(draws, _GREY, settings.grey), _luma(x), x)
    if settings.blur:
        low, high = _BLUR_SIGMA
        blurred = gaussian_blur(x, low + (high - low) * draws[:, _SIGMA])
        x = torch.where(_chosen(draws, _BLUR, settings.blur), blurred, x)
    if settings.solarise:
        turned = torch.where(x >= _SOLARISE_FROM, 1 - x, x)
        x = torch.where(_chosen(draws, _SOLARISE, settings.solarise), turned, x)
    return x


def _chosen(draws: Tensor, column: int, probability: float) -> Tensor:
    return (draws[:, column] < probability).view(-1, 1, 1, 1)


def _luma(x: Tensor) -> Tensor:
    """Return the grey image [N, 1, H, W]; one channel is its own."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(1)


# --- where: crop, resize, shift and flip ---------------------------------------------------------


def _place(x: Tensor, draws: Tensor, settings: AugmentSettings) -> Tensor:
    """Crop and resize, or shift, and flip: rows and columns each by one matrix per image."""
    height, width = x.shape[-2:]
    flipped = draws[:, _FLIP] < settings.flip
    if settings.crops:
        top, left, h, w = crop_boxes(draws, height, width, settings)
        columns = resize_matrix(left, w, width, settings.interpolation, flipped)
        rows = resize_matrix(top, h, height, settings.interpolation)
    elif settings.pad:
        if settings.pad >= min(height, width):
            raise InputError(
                f"augment: pad is {settings.pad}, a shift that can leave nothing of images of {height} x "
                f"{width} pixels; lower it"
            )
        columns = _shift_matrix(draws[:, _PAD_X], width, settings.pad, flipped)
        rows = _shift_matrix(draws[:, _PAD_Y], height, settings.pad)
    elif settings.flip:
        return torch.where(flipped.view(-1, 1, 1, 1), x.flip(-1), x)
    else:
        return x
    # columns first, clamped between the passes, as Pillow does it: cubic weights overshoot
    x = (x.flatten(1, 2) @ columns.mT).view(x.shape).clamp_(0, 1)  # channels and rows share a matrix
    return (rows.unsqueeze(1) @ x).clamp_(0, 1)


def crop_boxes(draws: Tensor, height: int, width: int, settings: AugmentSettings) -> tuple[Tensor, ...]:
    """Return (top, left, h, w) [N] of the random crops, whole pixels.

    Area uniform in the scale, log ratio uniform, ten tries, the full image if none fits; the offsets
    are uniform over what is left (Inception's crop: Szegedy et al., Going Deeper with Convolutions, 2014,
    arXiv:1409.4842, as torchvision draws it).
    """
    low, high = settings.crop_scale_min, settings.crop_scale_max
    area = height * width * (low + (high - low) * draws[:, _AREA])
    low, high = math.log(settings.crop_ratio_min), math.log(settings.crop_ratio_max)
    ratio = torch.exp(low + (high - low) * draws[:, _RATIO])
    w, h = torch.sqrt(area * ratio).round(), torch.sqrt(area / ratio).round()
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    any_fits = fits.any(1)
    w = torch.where(any_fits, w.gather(1, first)[:, 0], width)
    h = torch.where(any_fits, h.gather(1, first)[:, 0], height)
    top = (draws[:, _TOP] * (height - h + 1)).floor()
    left = (draws[:, _LEFT] * (width - w + 1)).floor()
    return top, left, h, w


def resize_matrix(
    start: Tensor, length: Tensor, size: int, interpolation: str, flipped: Tensor | None = None
) -> Tensor:
    """Return matrices [N, size, size] that stretch `length` pixels from `start` over all `size`.

    Row o holds k(s + 1/2 - c) over the source pixels s of the box, c = start + (o + 1/2) length / size,
    normalised to sum 1; k is the triangle or Keys' cubic with a = -1/2 (Pillow's). A crop never
    exceeds the output, so no anti-aliasing enters. `flipped` [N] reverses the rows.
    """
    source = torch.arange(size, device=start.device, dtype=start.dtype)
    target = source.expand(len(start), size)
    if flipped is not None:
        target = torch.where(flipped[:, None], size - 1 - target, target)
    centre = start[:, None] + (target + 0.5) * (length / size)[:, None]
    distance = (source + 0.5 - centre[:, :, None]).abs()
    weights = _cubic(distance) if interpolation == "bicubic" else (1 - distance).clamp(min=0)
    inside = (source >= start[:, None]) & (source < (start + length)[:, None])
    weights = weights * inside[:, None, :]
    return weights / weights.sum(-1, keepdim=True)


def _cubic(d: Tensor) -> Tensor:
    """Keys' cubic kernel (1981) with a = -1/2 of the distances d >= 0."""
    # both pieces as powers of the distance to where they end: no branch, and few passes over the matrices
    u, v = (2 - d).clamp(min=0), (1 - d).clamp(min=0)
    return 0.5 * u * u * (u - 1) + v * v * (1 - 2 * v)


def _shift_matrix(uniform: Tensor, size: int, pad: int, flipped: Tensor | None = None) -> Tensor:
    """Return matrices [N, size, size] that move by a whole number of pixels in [-pad, pad]."""
    offset = (uniform * (2 * pad + 1)).floor() - pad
    source = torch.arange(size, device=uniform.device, dtype=uniform.dtype)
    target = source.expand(len(uniform), size)
    if flipped is not None:
        target = torch.where(flipped[:, None], size - 1 - target, target)
    return ((target + offset[:, None])[:, :, None] == source).to(uniform.dtype)


# --- colours -------------------------------------------------------------------------------------


def _jitter(x: Tensor, draws: Tensor, settings: AugmentSettings) -> Tensor:
    """Brightness, contrast, saturation and hue, every image in its own random order."""
    order = draws[:, _ORDER].argsort(1)
    strengths = (settings.brightness, settings.contrast, settings.saturation)
    factors = []
    for strength, uniform in zip(strengths, draws[:, _FACTOR].unbind(1), strict=False):
        low = max(0.0, 1 - strength)
        factors.append(low + (1 + strength - low) * uniform)
    on = draws[:, _JITTER] < settings.jitter
    factors = [torch.where(on, factor, 1.0) for factor in factors]
    turn = None
    if settings.hue and x.shape[1] == 3:
        turn = torch.where(on, settings.hue * (2 * draws[:, _FACTOR][:, _HUE] - 1), 0.0)
    return colour_jitter(x, order, torch.stack(factors, 1), turn)


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
    hue_at = (order == _HUE).to(torch.uint8).argmax(1)
    idle = torch.full_like(hue_at, _HUE)
    for place in range(3):
        x = _affine(x, torch.where(place < hue_at, order[:, place], idle), factors)
    x = turn_hue(x, turn)
    for place in range(1, 4):
        x = _affine(x, torch.where(place > hue_at, order[:, place], idle), factors)
    return x


def _affine(x: Tensor, operation: Tensor, factors: Tensor) -> Tensor:
    factor = factors.gather(1, operation[:, None]).view(-1, 1, 1, 1)
    operation = operation.view(-1, 1, 1, 1)
    grey = _luma(x)
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
    radius = min(math.ceil(3 * _BLUR_SIGMA[1]), size - 1)
    source = torch.arange(size, device=sigma.device, dtype=sigma.dtype)
    mirrors = torch.stack((source, -source, 2 * (size - 1) - source))  # a source pixel and its two images
    mirrors[1, 0] = mirrors[2, -1] = math.inf  # an edge pixel is not its own mirror image
    distance = (mirrors[:, None, :] - source[:, None]).abs()
    weights = torch.exp(-0.5 * (distance / sigma.view(-1, 1, 1, 1)) ** 2)
    weights = (weights * (distance <= radius)).sum(1)
    return weights / weights.sum(-1, keepdim=True)
