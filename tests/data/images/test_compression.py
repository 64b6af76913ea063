"""JPEG as an augmentation, against Pillow's files, on real photographs."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from sslood.core.errors import InputError
from sslood.core.settings import checked
from sslood.data.images.augment import COLUMNS, AugmentSettings, apply_draws, augment, draw
from sslood.data.images.compression import _COLOUR, _LIGHT, jpeg, steps, stored

QUALITIES = (1, 10, 30, 49, 50, 75, 95, 100)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def saved(levels, quality):
    """Return uint8 [C, H, W] as Pillow opens the JPEG file that it wrote, and the file."""
    grey = len(levels) == 1
    file = BytesIO()
    Image.fromarray(levels[0] if grey else levels.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
    opened = Image.open(file)
    pixels = np.asarray(opened)
    return (pixels[None] if grey else pixels.transpose(2, 0, 1)), opened


@pytest.mark.parametrize("quality", QUALITIES)
def test_quantisation_is_that_of_pillows_files(photos, quality):
    tables = saved(photos[0].numpy(), quality)[1].quantization
    for ours, theirs in ((_LIGHT, tables[0]), (_COLOUR, tables[1])):
        assert steps(torch.tensor([float(quality)]), ours).flatten().tolist() == theirs


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (29, 27), (17, 32), (8, 8), (5, 3), (1, 1)])
@pytest.mark.parametrize("quality", QUALITIES)
def test_pixels_are_those_of_pillows_files(photos, channels, height, width, quality):
    """A coefficient halfway between two steps may go to either: a few blocks."""
    images = photos[:, :channels, :height, :width]
    theirs = np.stack([saved(image, quality)[0] for image in images.numpy()]).astype(float)
    for dtype in (torch.float32, torch.float64):
        ours = 255 * jpeg(images.to(dtype) / 255, torch.full((len(images),), float(quality), dtype=dtype))
        assert (ours - ours.round()).abs().max() < 1e-3
        gaps = np.abs(ours.numpy() - theirs)
        lost = np.abs(images.numpy() - theirs).mean()
        assert gaps.mean() <= max(0.05 * lost, 0.4), gaps.mean()
        assert np.median(gaps) <= 0.001


def test_each_image_has_its_own_quality(photos):
    qualities = torch.tensor([10.0, 95.0]).repeat(48)
    x = photos.float() / 255
    together = jpeg(x, qualities)
    for parity, quality in enumerate((10, 95)):
        alone = jpeg(x[parity::2], torch.full((48,), float(quality)))
        assert torch.equal(together[parity::2], alone)


def test_the_share_and_the_qualities_are_as_drawn(photos):
    recipe = AugmentSettings(jpeg=0.6, quality=60)
    draws = draw(len(photos), generator(), recipe.columns)
    assert draws.shape[1] == COLUMNS + 2
    ours = apply_draws(photos, draws, recipe)
    x = photos.float() / 255
    for image, got, (whether, which) in zip(x, ours, draws[:, COLUMNS:], strict=True):
        quality = torch.floor(60 + 36 * which)  # 60 to 95
        assert 60 <= quality <= 95
        assert torch.equal(got, jpeg(image[None], quality[None])[0] if whether < 0.6 else image)
    assert torch.equal(augment(photos, recipe, generator()), ours)
    limits = torch.tensor([[0.0, 0.0], [0.0, 1 - 2**-24]])
    for lowest, expected in ((50, (50, 95)), (95, (95, 95)), (98, (98, 98))):
        wanted = jpeg(x[:2], torch.tensor(expected, dtype=torch.float32))
        assert torch.equal(stored(x[:2], limits, 1.0, lowest), wanted)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_reads_nothing_back_and_comes_before_the_hole(photos, channels):
    recipe = AugmentSettings(pad=4, flip=0.5, jpeg=1.0, quality=20, cutout=8)
    images, draws = photos[:, :channels].contiguous(), draw(len(photos), generator(), recipe.columns)
    ours = apply_draws(images, draws, recipe, fill=0.25)
    assert ours.min() >= 0 and ours.max() <= 1
    assert ((ours == 0.25).all(1).sum((1, 2)) >= 16).all()  # the hole is not compressed
    images, draws = images.to("meta"), draws.to("meta")
    assert apply_draws(images, draws, recipe).shape == ours.shape


def test_it_is_one_graph(photos):
    recipe = AugmentSettings(jpeg=0.5)
    draws = draw(len(photos), generator(), recipe.columns)
    traced = torch.compile(apply_draws, backend="eager", fullgraph=True)
    assert torch.equal(traced(photos, draws, recipe), apply_draws(photos, draws, recipe))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"jpeg": 1.5}, "augment.x.jpeg must be at least 0 and at most 1, found 1.5"),
        ({"quality": 0}, "augment.x.quality must be at least 1 and at most 100, found 0"),
    ],
)
def test_impossible_strengths_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        checked(AugmentSettings, wrong, "params.yaml:augment.x")
