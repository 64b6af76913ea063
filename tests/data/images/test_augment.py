"""Against Pillow and torchvision, on real photographs."""

from itertools import permutations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from sslood.core.errors import InputError
from sslood.core.settings import checked
from sslood.data.images.augment import (
    COLUMNS,
    AugmentSettings,
    apply_draws,
    augment,
    crop_boxes,
    draw,
)
from sslood.data.images.colours import colour_jitter, gaussian_blur

OPERATIONS = (
    reference.adjust_brightness,
    reference.adjust_contrast,
    reference.adjust_saturation,
    reference.adjust_hue,
)
FULL = AugmentSettings(
    crop_scale_min=0.08, flip=0.5, jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8,
    hue=0.2, grey=0.2, blur=0.5, solarise=0.2,
)  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crop_resize_and_flip_agree_with_pillow(photos, interpolation):
    recipe = AugmentSettings(crop_scale_min=0.08, interpolation=interpolation, flip=0.5)
    draws = draw(len(photos), generator())
    ours = apply_draws(photos, draws, recipe) * 255
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    boxes = torch.stack(crop_boxes(draws, 32, 32, recipe), 1).int().tolist()
    flips = ours.new_zeros(2)
    for image, got, (top, left, h, w) in zip(photos, ours, boxes, strict=True):
        pixels = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((left, top, left + w, top + h))
        expected = torch.from_numpy(np.array(pixels.resize((32, 32), filters[interpolation])))
        expected = expected.permute(2, 0, 1).float()
        gaps = torch.stack([(got - expected).abs().max(), (got - expected.flip(-1)).abs().max()])
        assert gaps.min() <= 1.6  # Pillow rounds between and after the passes
        flips[gaps.argmin()] += 1
    assert flips.min() > 0.3 * len(photos)


def test_crop_boxes_follow_torchvisions_law():
    recipe = AugmentSettings(crop_scale_min=0.08)
    n = 4000
    ours = torch.stack(crop_boxes(draw(n, generator()), 32, 32, recipe), 1)
    image = torch.zeros(3, 32, 32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]
    theirs = torch.tensor(theirs, dtype=torch.float32)
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=0.5, rtol=0)  # 4 standard errors
    torch.testing.assert_close(ours.std(0), theirs.std(0), atol=0.5, rtol=0)
    top, left, h, w = ours.unbind(1)
    assert ((top + h <= 32) & (left + w <= 32) & (h >= 1) & (w >= 1) & (top >= 0) & (left >= 0)).all()


def test_every_order_of_the_colour_jitter_agrees_with_torchvision(photos):
    x = photos[:24].float() / 255
    rng = np.random.default_rng(1)
    orders = torch.tensor(list(permutations(range(4))))
    factors = torch.from_numpy(rng.uniform(0.2, 1.8, (24, 3))).float()
    turn = torch.from_numpy(rng.uniform(-0.2, 0.2, 24)).float()
    ours = colour_jitter(x, orders, factors, turn)
    for i, order in enumerate(orders.tolist()):
        amounts = [*factors[i].tolist(), turn[i].item()]
        expected = x[i]
        for operation in order:
            expected = OPERATIONS[operation](expected, amounts[operation])
        torch.testing.assert_close(ours[i], expected, atol=1e-5, rtol=0)


def test_grey_images_jitter_in_brightness_and_contrast_only(photos):
    x = photos[:24, :1].float() / 255
    orders = torch.tensor(list(permutations(range(4))))
    factors = torch.full((24, 3), 1.5)
    ours = colour_jitter(x, orders, factors, None)
    for i, order in enumerate(orders.tolist()):
        expected = x[i]
        for operation in order:
            if operation == 0:
                expected = reference.adjust_brightness(expected, 1.5)
            if operation == 1:
                expected = reference.adjust_contrast(expected, 1.5)
        torch.testing.assert_close(ours[i], expected, atol=1e-5, rtol=0)


def test_blur_agrees_with_torchvision(photos):
    x = photos[:8].float() / 255
    sigma = torch.linspace(0.2, 2.0, 8)
    ours = gaussian_blur(x, sigma)
    for i in range(8):
        expected = reference.gaussian_blur(x[i], [13, 13], [sigma[i].item()] * 2)
        torch.testing.assert_close(ours[i], expected, atol=1e-5, rtol=0)


def test_solarise_and_grey_agree_with_torchvision(photos):
    x = photos.float() / 255
    solarised = augment(photos, AugmentSettings(solarise=1.0), generator())
    torch.testing.assert_close(solarised, reference.solarize(x, 128 / 255))
    grey = augment(photos, AugmentSettings(grey=1.0), generator())
    torch.testing.assert_close(grey, reference.rgb_to_grayscale(x, 3), atol=1e-6, rtol=0)


def test_pad_shifts_by_whole_pixels_and_brings_in_zeros(photos):
    recipe = AugmentSettings(pad=4, flip=0.5)
    views = augment(photos, recipe, generator())
    x = photos.float() / 255
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
    places = [(dy, dx) for dy in range(9) for dx in range(9)]
    candidates = torch.stack([padded[:, :, dy : dy + 32, dx : dx + 32] for dy, dx in places], 1)
    candidates = torch.cat((candidates, candidates.flip(-1)), 1)
    gap = (candidates - views[:, None]).abs().amax((2, 3, 4))
    assert gap.min(1).values.max() < 1e-6
    assert len(set(gap.argmin(1).tolist())) > 40  # of 162 places, 96 draws


def test_default_recipe_changes_nothing(photos):
    assert torch.equal(augment(photos, AugmentSettings(), generator()), photos.float() / 255)


def test_images_are_independent_of_their_neighbours(photos):
    draws = draw(len(photos), generator())
    together = apply_draws(photos, draws, FULL)
    alone = torch.cat([apply_draws(photos[i : i + 1], draws[i : i + 1], FULL) for i in range(len(photos))])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    assert together.min() >= 0 and together.max() <= 1


def test_generator_decides_everything(photos):
    first = augment(photos, FULL, generator(1))
    assert torch.equal(first, augment(photos, FULL, generator(1)))
    assert not torch.equal(first, augment(photos, FULL, generator(2)))
    assert draw(5, generator()).shape == (5, COLUMNS)


def test_probabilities_are_met(photos):
    x = photos[:1].expand(4000, 3, 32, 32)
    plain = x.float() / 255
    for name in ("grey", "blur", "solarise", "flip", "jitter"):
        strength = {"brightness": 0.8} if name == "jitter" else {}
        views = augment(x, AugmentSettings(**{name: 0.3}, **strength), generator())
        share = ((views - plain).abs().amax((1, 2, 3)) > 1e-4).float().mean().item()
        assert share == pytest.approx(0.3, abs=0.03)


def test_the_dtype_of_the_draws_is_that_of_the_views(photos):
    draws = draw(len(photos), generator())
    exact = apply_draws(photos, draws.double(), FULL)
    assert exact.dtype == torch.float64
    # a draw so near to a limit that rounding decides, or a pixel between two sectors of the hue, may differ
    differ = (exact - apply_draws(photos, draws, FULL)).abs() > 1e-4
    assert differ.float().mean() < 0.01


def test_it_is_one_graph(photos):
    view = torch.compile(apply_draws, backend="eager", fullgraph=True)
    draws = draw(len(photos), generator())
    for images in (photos, photos[:, :1].contiguous()):
        torch.testing.assert_close(view(images, draws, FULL), apply_draws(images, draws, FULL))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"flip": 1.5}, "augment.shots.flip must be at least 0 and at most 1, found 1.5"),
        ({"crop_scale_min": 0.0}, "augment.shots.crop_scale_min must be above 0, found 0.0"),
        ({"hue": 0.7}, "augment.shots.hue must be at least 0 and at most 0.5, found 0.7"),
        ({"pad": 4, "crop_scale_min": 0.5}, "augment.shots: choose either pad or a crop"),
        ({"fliip": 0.5}, r"augment.shots: unknown key 'fliip' \(did you mean 'flip'\?\)"),
    ],
)
def test_impossible_settings_are_refused_and_their_section_is_named(wrong, message):
    with pytest.raises(InputError, match=message):
        checked(AugmentSettings, wrong, "params.yaml:augment.shots")
