"""The artefact probe on patterns with a closed form, and on real pictures shrunk well and badly."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score

from sslood.auditing.roughness import artefact_scores
from sslood.data.sets.tree import tree


def test_closed_forms():
    """Checkerboard of 0 and 255: every neighbour differs by 255, the deviation is 127.5. Stripes of one
    pixel: the same in one direction, nothing in the other. One colour: nothing."""
    board = np.indices((8, 8)).sum(0) % 2 * 255
    stripes = np.tile([0, 255], (8, 4))
    images = np.stack([board, stripes, np.full((8, 8), 90)])[:, None].astype(np.uint8)
    assert np.allclose(artefact_scores(images), [2, 1, 0])
    assert artefact_scores(images[:0]).shape == (0,)


def test_neither_brightness_nor_contrast_counts():
    image = np.random.default_rng(0).integers(0, 60, (1, 3, 16, 16)).astype(np.uint8)
    expected = artefact_scores(image)[0]
    assert np.allclose(artefact_scores(np.concatenate([image + 100, image * 4])), expected)


def test_blocks_make_no_difference():
    images = np.random.default_rng(0).integers(0, 256, (2100, 1, 8, 8), np.uint8)
    each = [artefact_scores(images[row : row + 1])[0] for row in (0, 1023, 1024, 2099)]
    assert np.allclose(artefact_scores(images)[[0, 1023, 1024, 2099]], each)


def test_shrinking_without_antialiasing_is_seen():
    """The same tiles of two photographs, 128 to 32 pixels: nearest against Pillow's bilinear."""
    sets = {"good": [], "bad": []}
    for photograph in load_sample_images().images:
        for top in range(0, photograph.shape[0] - 128, 64):
            for left in range(0, photograph.shape[1] - 128, 64):
                tile = Image.fromarray(np.ascontiguousarray(photograph[top : top + 128, left : left + 128]))
                sets["good"].append(np.asarray(tile.resize((32, 32), Image.Resampling.BILINEAR)))
                sets["bad"].append(np.asarray(tile.resize((32, 32), Image.Resampling.NEAREST)))
    good, bad = (artefact_scores(np.stack(images).transpose(0, 3, 1, 2)) for images in sets.values())
    assert (bad > good).mean() > 0.95


def test_real_textures_against_cifar100_depend_on_the_resampling(mirror):
    """The same textures look rougher than photographs to the probe once nearest neighbour shrank them."""
    photographs = tree({"x": mirror / "cifar100-test"}, "test", {}).images[::20]
    textures = tree({"x": mirror / "dtd-short64"}, "test", {}).images[::4]

    def scores(paths, how):
        shrunk = [np.asarray(Image.open(path).convert("RGB").resize((32, 32), how)) for path in paths]
        return artefact_scores(np.stack(shrunk).transpose(0, 3, 1, 2))

    known = scores(photographs, Image.Resampling.BILINEAR)
    areas = {}
    for how in (Image.Resampling.BILINEAR, Image.Resampling.NEAREST):
        found = scores(textures, how)
        truth = np.repeat([0, 1], [len(known), len(found)])
        areas[how] = roc_auc_score(truth, np.concatenate([known, found]))
    assert areas[Image.Resampling.NEAREST] > areas[Image.Resampling.BILINEAR] + 0.05
