"""PixMix against a transcription of the paper's algorithm in float64; Cutout against the authors' hole."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from sslood.core.errors import InputError
from sslood.core.settings import checked
from sslood.data.images import operations, pixmix
from sslood.data.images.augment import COLUMNS, AugmentSettings, apply_draws, augment, draw
from sslood.data.images.operations import operate

K, SEVERITY, BETA = 4, 3.0, 3.0
MIXED = AugmentSettings(pixmix=K, severity=SEVERITY, beta=BETA)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def transcribed(x: np.ndarray, changed: np.ndarray, picture: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Mix one image [C, H, W] step by step; changed: the operations' results [k + 1, C, H, W]."""
    start, count = draws[:2]
    mixed = changed[0] if start < 0.5 else x
    for turn in range(int(count * (K + 1))):
        source, product, branch, first, second = draws[5 + 3 * (K + 1) :].reshape(K, 5)[turn]
        other = changed[turn + 1] if source < 0.5 else picture
        if branch < 0.5:
            a, b = stats.beta.ppf(first, BETA, 1), 1 - stats.beta.ppf(second, BETA, 1)
        else:
            a, b = 1 + (1 - stats.beta.ppf(first, BETA, 1)), -(1 - stats.beta.ppf(second, BETA, 1))
        if product < 0.5:
            mixed = (2 * mixed) ** a * np.maximum(2 * other, 1e-37) ** b / 2
        else:
            mixed = (a * (2 * mixed - 1) + b * (2 * other - 1) + 1) / 2
        mixed = np.clip(mixed, 0, 1)
    return mixed


def test_pixmix_is_the_papers_algorithm(photos):
    draws = draw(len(photos), generator(), MIXED.columns).double()
    own = draws[:, COLUMNS:]
    assert own.shape[1] == pixmix.columns(K)
    pictures = photos.flip(0)
    ours = apply_draws(photos, draws, MIXED, pictures=pictures).numpy()
    x = photos.double() / 255
    kind, amount = pixmix.operations(own[:, 5 : 5 + 3 * (K + 1)].unflatten(1, (-1, 3)), SEVERITY, 32, 32)
    changed = operate(x, kind, amount).numpy()
    cropped = pixmix._cropped(pictures, *own[:, 2:5].unbind(1), torch.float64).numpy()
    for i in range(len(photos)):
        expected = transcribed(x[i].numpy(), changed[i], cropped[i], own[i].numpy())
        np.testing.assert_allclose(ours[i], expected, atol=1e-9)
    assert 0.2 < np.abs(ours - x.numpy()).mean() / x.std().item() < 2


@pytest.mark.parametrize(("dtype", "channels"), [(torch.float32, 3), (torch.float64, 3), (torch.float32, 1)])
def test_a_cpu_computes_what_is_needed_alone_and_gives_the_same_bytes(photos, dtype, channels, monkeypatch):
    recipe = AugmentSettings(randaugment=2, pixmix=K)
    draws, photos = draw(len(photos), generator(), recipe.columns).to(dtype), photos[:, :channels]
    ours = apply_draws(photos, draws, recipe, pictures=photos)
    for module in (pixmix, operations):  # as on a GPU: every operation on every image
        monkeypatch.setattr(module, "reads_back", lambda x: False)
    assert torch.equal(ours, apply_draws(photos, draws, recipe, pictures=photos))


def test_mixing_weights_follow_their_beta_laws():
    draws = torch.rand(3, 20_000, dtype=torch.float64, generator=generator())
    a, b = pixmix.mixing_weights(*draws, BETA)
    inner = draws[0] < 0.5
    for values, law in ((a[inner], stats.beta(BETA, 1)), (a[~inner] - 1, stats.beta(1, BETA))):
        assert stats.kstest(values.numpy(), law.cdf).pvalue > 1e-3
    for values in (b[inner], -b[~inner]):
        assert stats.kstest(values.numpy(), stats.beta(1, BETA).cdf).pvalue > 1e-3


def test_levels_reach_from_a_tenth_to_the_severity():
    draws = torch.rand(5000, 1, 3, dtype=torch.float64, generator=generator())
    kind, amount = pixmix.operations(draws, SEVERITY, 32, 32)
    assert sorted(kind.unique().tolist()) == list(range(1, 14))
    degrees = amount[kind == pixmix.OPERATIONS.index("rotate")]
    assert set(degrees.abs().unique().tolist()) == set(range(9)) and degrees.min() < 0 < degrees.max()
    bits = amount[kind == pixmix.OPERATIONS.index("posterize")]
    assert set(bits.unique().tolist()) == {3.0, 4.0}
    slopes = amount[kind == pixmix.OPERATIONS.index("shear_x")].abs()
    assert stats.kstest(slopes.numpy(), stats.uniform(0.003, 0.087).cdf).pvalue > 1e-3


def test_a_picture_is_enlarged_to_36_pixels_and_cropped(photos):
    """Against Pillow's resize, whose values are whole numbers."""
    from PIL import Image

    uniform = torch.tensor([0.0, 0.5, 0.99])
    which = torch.zeros(3)
    ours = pixmix._cropped(photos[:1], which, uniform, uniform.flip(0), torch.float32) * 255
    image = Image.fromarray(photos[0].permute(1, 2, 0).numpy()).resize((36, 36), Image.Resampling.BILINEAR)
    large = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    for got, top, left in zip(ours, (0, 2, 4), (4, 2, 0), strict=True):
        assert (got - large[:, top : top + 32, left : left + 32]).abs().max() < 1.5


@pytest.mark.parametrize("size", [8, 15, 31, 65, 73, 97, 150, 224])
def test_every_crop_is_that_of_the_enlarged_picture(size):
    """At every offset and size, odd ones too; a crop is interpolated across its own border."""
    pictures = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8, generator=generator())
    offsets = size // 8 + 1
    uniform = (torch.arange(offsets, dtype=torch.float64) + 0.5) / offsets
    ours = pixmix._cropped(pictures, torch.zeros(offsets), uniform, uniform, torch.float64)
    enlarged = (size + size // 8,) * 2
    large = F.interpolate(pictures.double() / 255, enlarged, mode="bilinear", align_corners=False)[0]
    for offset, got in enumerate(ours):
        expected = large[:, offset : offset + size, offset : offset + size]
        np.testing.assert_allclose(got.numpy(), expected.numpy(), atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_all_of_it_together_stays_within_the_grey_scale_and_reads_nothing_back(photos, channels):
    recipe = AugmentSettings(pad=4, flip=0.5, randaugment=1, pixmix=2, cutout=8)
    images = photos[:, :channels].contiguous()
    draws = draw(len(photos), generator(), recipe.columns)
    ours = apply_draws(images, draws, recipe, pictures=images)
    assert ours.min() >= 0 and ours.max() <= 1 and ours.isfinite().all()
    exact = apply_draws(images, draws.double(), recipe, pictures=images)
    assert exact.dtype == torch.float64
    assert ((exact - ours).abs() > 0.02).float().mean() < 0.01  # a draw at a limit, a fraction at a level
    images, draws = images.to("meta"), draws.to("meta")  # no values: a branch on one, or a copy back, fails
    assert apply_draws(images, draws, recipe, pictures=images).shape == ours.shape


def test_black_and_white_mix_without_nan():
    x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8) * 255
    draws = torch.cat([draw(2, generator(seed), MIXED.columns) for seed in range(100)])
    images = x.to(torch.uint8).repeat(100, 1, 1, 1)
    mixed = apply_draws(images, draws, MIXED, pictures=images[:2])
    assert mixed.isfinite().all() and mixed.min() >= 0 and mixed.max() <= 1


def test_cutout_is_the_authors_hole_in_the_given_colour(photos):
    recipe = AugmentSettings(cutout=10)
    draws = draw(len(photos), generator(), recipe.columns)
    fill = torch.tensor([0.2, 0.4, 0.6])
    ours = apply_draws(photos, draws, recipe, fill=fill)
    for image, got, (row, column) in zip(photos / 255, ours, draws[:, COLUMNS:], strict=True):
        y, x = int(row * 32), int(column * 32)
        expected = image.clone()
        expected[:, max(0, y - 5) : y + 5, max(0, x - 5) : x + 5] = fill[:, None, None]
        assert torch.equal(got, expected)
    assert torch.equal(augment(photos, recipe, generator()), apply_draws(photos, draws, recipe))


def test_what_is_off_leaves_the_draws_of_the_rest_alone(photos):
    plain = AugmentSettings(pad=4, flip=0.5)
    assert plain.columns == COLUMNS
    assert torch.equal(augment(photos, plain, generator()), apply_draws(photos, draw(96, generator()), plain))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"magnitude": 31}, "augment.x.magnitude must be at least 0 and at most 30, found 31"),
        ({"severity": 0.0}, "augment.x.severity must be at least 0.1 and at most 10, found 0.0"),
        ({"beta": 0.0}, "augment.x.beta must be above 0, found 0.0"),
        ({"cutout": -1}, "augment.x.cutout must be at least 0, found -1"),
    ],
)
def test_impossible_strengths_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        checked(AugmentSettings, wrong, "params.yaml:augment.x")


def test_pixmix_without_pictures_is_refused(photos):
    with pytest.raises(InputError, match="pixmix mixes in pictures, which only the stage `methods` reads"):
        augment(photos, MIXED, generator())
