"""Every operation against Pillow's own, on real photographs; RandAugment's ranges against torchvision's."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as transforms
from PIL import Image, ImageEnhance, ImageOps

from sslood.data.images.operations import AT, OPERATIONS, operate
from sslood.data.images.randaugment import LARGEST, amounts, columns, randaugment

SIZE = 32


def affine(a: float, b: float, c: float, d: float, e: float, f: float):
    return lambda image: image.transform(
        image.size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.BILINEAR
    )


PILLOW = {  # operation -> (amounts, Pillow's function of one)
    "identity": ((0,), lambda _: lambda image: image),
    "autocontrast": ((0,), lambda _: ImageOps.autocontrast),
    "equalize": ((0,), lambda _: ImageOps.equalize),
    "posterize": ((1, 3, 4, 8), lambda bits: lambda image: ImageOps.posterize(image, bits)),
    "solarize": ((0, 100, 256), lambda level: lambda image: ImageOps.solarize(image, level)),
    "rotate": ((-9, 17, 30), lambda turn: lambda image: image.rotate(turn, Image.Resampling.BILINEAR)),
    "shear_x": ((-0.3, 0.13), lambda slope: affine(1, slope, 0, 0, 1, 0)),
    "shear_y": ((-0.3, 0.13), lambda slope: affine(1, 0, 0, slope, 1, 0)),
    "translate_x": ((-3, 10), lambda shift: affine(1, 0, shift, 0, 1, 0)),
    "translate_y": ((-3, 10), lambda shift: affine(1, 0, 0, 0, 1, shift)),
    "colour": ((0.1, 1.6), lambda factor: lambda image: ImageEnhance.Color(image).enhance(factor)),
    "contrast": ((0.1, 1.6), lambda factor: lambda image: ImageEnhance.Contrast(image).enhance(factor)),
    "brightness": ((0.1, 1.6), lambda factor: lambda image: ImageEnhance.Brightness(image).enhance(factor)),
    "sharpness": ((0.1, 1.6), lambda factor: lambda image: ImageEnhance.Sharpness(image).enhance(factor)),
}


def as_pillow(image: torch.Tensor) -> Image.Image:
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array if array.shape[2] == 3 else array[:, :, 0])


def levels(image: Image.Image) -> torch.Tensor:
    array = np.asarray(image)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1).copy()).permute(2, 0, 1).double()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_pillows_within_a_level(photos, name, channels):
    images = photos[::6, :channels].contiguous()
    values, function = PILLOW[name]
    kind = torch.full((len(images), len(values)), AT[name])
    amount = torch.tensor(values, dtype=torch.float32).expand(len(images), -1)
    ours = operate(images / 255, kind, amount) * 255
    for image, results in zip(images, ours, strict=True):
        for value, got in zip(values, results, strict=True):
            gap = (got.double() - levels(function(value)(as_pillow(image)))).abs()
            assert gap.max() < 1.01 and gap.mean() < 0.02, value


def test_images_of_few_levels_stay_what_pillow_leaves_them():
    flat = torch.zeros(2, 1, SIZE, SIZE, dtype=torch.uint8)
    flat[1, :, :16] = 255
    for name in ("autocontrast", "equalize", "contrast"):
        kind = torch.full((2, 1), AT[name])
        ours = operate(flat / 255, kind, torch.full((2, 1), 1.5))[:, 0] * 255
        for image, got in zip(flat, ours, strict=True):
            function = PILLOW[name][1](1.5)
            assert torch.equal(got.double(), levels(function(as_pillow(image))))


def test_each_image_has_its_own_operation_whatever_its_neighbours(photos):
    generator = torch.Generator().manual_seed(0)
    kind = torch.randint(len(OPERATIONS), (len(photos), 3), generator=generator)
    amount = torch.full(kind.shape, 3.0)
    x = photos / 255
    alone = torch.cat([operate(x[i : i + 1], kind[i : i + 1], amount[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(operate(x, kind, amount), alone, atol=1e-6, rtol=0)
    exact = operate(x.double(), kind, amount.double())
    assert (exact - alone).abs().gt(1e-6).float().mean() < 1e-4  # a fraction at a whole number


NAMES = {name.lower().replace("color", "colour"): name for name in transforms.RandAugment._AUGMENTATION_SPACE}


@pytest.mark.parametrize("magnitude", [0, 9, 14, LARGEST])
def test_randaugment_has_torchvisions_operations_and_ranges(magnitude):
    assert {name.replace("_", "") for name in OPERATIONS} == set(NAMES)
    kind = torch.arange(len(OPERATIONS))[:, None]
    for sign, uniform in ((-1, 0.2), (1, 0.8)):
        ours = amounts(kind, torch.full(kind.shape, uniform, dtype=torch.float64), magnitude, 32, 48)[:, 0]
        for name, got in zip(OPERATIONS, ours.tolist(), strict=True):
            values, signed = transforms.RandAugment._AUGMENTATION_SPACE[NAMES[name.replace("_", "")]]
            values = values(31, 32, 48)
            theirs = 0.0 if values is None else float(values[magnitude]) * (sign if signed else 1)
            if name in ("colour", "contrast", "brightness", "sharpness"):
                theirs += 1
            if name.startswith("translate"):
                theirs = math.trunc(theirs)
            assert got == pytest.approx(255 * theirs if name == "solarize" else theirs, abs=1e-4), name


def test_randaugment_applies_one_operation_after_the_other(photos):
    assert columns(2) == 4
    draws = torch.rand(len(photos), 4, generator=torch.Generator().manual_seed(1))
    x = photos / 255
    twice = randaugment(randaugment(x, draws[:, :2], 14), draws[:, 2:], 14)
    assert torch.equal(randaugment(x, draws, 14), twice)
    changed = (twice - x).abs().amax((1, 2, 3)) > 0.01
    assert changed.float().mean() > 0.7
