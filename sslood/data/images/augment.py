"""Augmentation of whole batches on their device: every image its own draws, no branch on a value.

Crop, resize and flip are two matrix products; the colour jitter follows each image's own order of
operations; blur is two more products; RandAugment, PixMix and Cutout have files of their own. Shapes are
static and nothing reads a value back, so `apply_draws` compiles as one graph. The distributions of the draws
are torchvision's; the crop agrees with Pillow within two grey levels, the colours with torchvision within
rounding (see the tests).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from sslood.core.errors import InputError
from sslood.core.settings import Settings, above, at_least, between, checked, read_section
from sslood.data.images import compression, cutout, pixmix, randaugment
from sslood.data.images.colours import BLUR_SIGMA, HUE, colour_jitter, gaussian_blur, luma
from sslood.data.images.placing import resize_matrix, shift_matrix
from sslood.data.images.randaugment import LARGEST

TRIES = 10  # crop boxes drawn per image; the first that fits is taken (as torchvision does)
# columns of the uniform draws, fixed whatever the settings: changing one option leaves the rest alone
_AREA, _RATIO = slice(0, TRIES), slice(TRIES, 2 * TRIES)
_TOP, _LEFT, _FLIP, _JITTER, _GREY = range(2 * TRIES, 2 * TRIES + 5)
_BLUR, _SIGMA, _SOLARISE, _PAD_Y, _PAD_X = range(2 * TRIES + 5, 2 * TRIES + 10)
_ORDER, _FACTOR = slice(2 * TRIES + 10, 2 * TRIES + 14), slice(2 * TRIES + 14, 2 * TRIES + 18)
COLUMNS = 2 * TRIES + 18

_SOLARISE_FROM = 128 / 255


_PROBABILITY = between(0, 1)


@dataclass(frozen=True)
class AugmentSettings(Settings):
    """What one view goes through, in the order of the keys, but for the flip, which is part of the crop.

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
    randaugment: Annotated[int, at_least(0), "operations of RandAugment, one after the other"] = 0
    magnitude: Annotated[int, between(0, LARGEST), "strength of RandAugment's operations"] = 9
    pixmix: Annotated[int, at_least(0), "largest number of PixMix's mixings (4 in the paper)"] = 0
    severity: Annotated[float, between(0.1, 10), "strength of PixMix's operations"] = 3.0
    beta: Annotated[float, above(0), "strength of PixMix's mixings: the larger, the weaker"] = 3.0
    jpeg: Annotated[float, _PROBABILITY, "probability of what JPEG leaves of the image"] = 0.0
    quality: Annotated[int, between(1, 100), "lowest quality of it; the highest is 95"] = 50
    cutout: Annotated[int, at_least(0), "side of Cutout's square hole, in pixels"] = 0

    def _check(self) -> None:
        if not self.crop_scale_min <= self.crop_scale_max <= 1:
            raise InputError("use crop_scale_min <= crop_scale_max <= 1")
        if not self.crop_ratio_min <= self.crop_ratio_max:
            raise InputError("use crop_ratio_min <= crop_ratio_max")
        if self.pad and self.crops:
            raise InputError("choose either pad or a crop (crop_scale_min below 1), not both")

    @property
    def columns(self) -> int:
        """The number of uniform draws of an image."""
        return COLUMNS + sum(self.more_columns)

    @property
    def more_columns(self) -> tuple[int, ...]:
        """Those of the options that came later, in the order in which they are applied."""
        return (
            randaugment.columns(self.randaugment),
            pixmix.columns(self.pixmix),
            compression.COLUMNS * (self.jpeg > 0),
            cutout.COLUMNS * (self.cutout > 0),
        )

    @property
    def crops(self) -> bool:
        """Whether there is a random crop at all."""
        return self.crop_scale_min < 1


def read_recipe(where: str) -> AugmentSettings:
    """Return the recipe at FILE:KEY; InputError for a wrong key or value."""
    return without_pictures(read_section(where), where)


def without_pictures(section: Mapping[str, Any], where: str) -> AugmentSettings:
    """Return the recipe of a section at FILE:KEY; InputError for PixMix too, which methods have."""
    recipe = checked(AugmentSettings, section, where)
    if recipe.pixmix:
        raise InputError(
            f"{where}.pixmix is {recipe.pixmix}, but only a method reads pictures to mix in; write it as "
            "`augment: {pixmix: …}` of an entry of `methods`"
        )
    return recipe


def draw(n: int, generator: torch.Generator, columns: int = COLUMNS) -> Tensor:
    """Return the uniform draws [n, columns] of n images, on its device (`columns` of a recipe)."""
    return torch.rand(n, columns, generator=generator, device=generator.device)


def augment(images: Tensor, settings: AugmentSettings, generator: torch.Generator) -> Tensor:
    """Return one augmented view of uint8 images [N, C, H, W] (C = 1 or 3) as floats in [0, 1].

    The generator must be on the images' device. Saturation, hue and grey leave one channel alone. InputError
    for PixMix, whose pictures only `apply_draws` takes.
    """
    check_pictures([settings], None)
    return apply_draws(images, draw(len(images), generator, settings.columns), settings)


def check_pictures(recipes: Sequence[AugmentSettings], pictures: Tensor | None) -> None:
    """Raise InputError if a recipe mixes in pictures, and there are none."""
    if pictures is None and any(recipe.pixmix for recipe in recipes):
        raise InputError(
            "augment: pixmix mixes in pictures, which only the stage `methods` reads; take it out here"
        )


def apply_draws(
    images: Tensor,
    draws: Tensor,
    settings: AugmentSettings,
    *,
    pictures: Tensor | None = None,
    fill: Tensor | float = 0.5,
) -> Tensor:
    """Return the view that the uniform `draws` [N, columns] decide, in their dtype: a pure function.

    pictures: uint8 [M, C, H, W] that PixMix mixes in. fill: what Cutout's hole shows, a value in [0, 1] or
    one per channel [C].
    """
    x = images.to(draws.dtype) / 255
    x = _place(x, draws, settings)
    if settings.jitter:
        x = _jitter(x, draws, settings)
    if settings.grey and x.shape[1] == 3:
        x = torch.where(_chosen(draws, _GREY, settings.grey), luma(x), x)
    if settings.blur:
        low, high = BLUR_SIGMA
        blurred = gaussian_blur(x, low + (high - low) * draws[:, _SIGMA])
        x = torch.where(_chosen(draws, _BLUR, settings.blur), blurred, x)
    if settings.solarise:
        turned = torch.where(x >= _SOLARISE_FROM, 1 - x, x)
        x = torch.where(_chosen(draws, _SOLARISE, settings.solarise), turned, x)
    parts = draws[:, COLUMNS : settings.columns].split(settings.more_columns, 1)
    if settings.randaugment:
        x = randaugment.randaugment(x, parts[0], settings.magnitude)
    if settings.pixmix and pictures is not None:
        x = pixmix.pixmix(x, parts[1], pictures, severity=settings.severity, beta=settings.beta)
    if settings.jpeg:
        x = compression.stored(x, parts[2], settings.jpeg, settings.quality)
    return cutout.cutout(x, parts[3], settings.cutout, fill) if settings.cutout else x


def _chosen(draws: Tensor, column: int, probability: float) -> Tensor:
    return (draws[:, column] < probability).view(-1, 1, 1, 1)


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
        columns = shift_matrix(draws[:, _PAD_X], width, settings.pad, flipped)
        rows = shift_matrix(draws[:, _PAD_Y], height, settings.pad)
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
        turn = torch.where(on, settings.hue * (2 * draws[:, _FACTOR][:, HUE] - 1), 0.0)
    return colour_jitter(x, order, torch.stack(factors, 1), turn)
