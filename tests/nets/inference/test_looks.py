import numpy as np
import pytest
import torch

from sslood.core.batches import batches
from sslood.core.errors import InputError
from sslood.nets.inference.extract import extract
from sslood.nets.inference.looks import Looks, as_fitted, seeing, seen_once
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model

PREPROCESSING = {"mean": [0.3], "std": [0.4]}
MIRRORED = Looks(mirror=True)


@pytest.fixture
def model():
    with seeded(0):
        return Model(build_backbone("resnet-8-4", channels=1), build_head(16, 3))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (21, 1, 8, 8), np.uint8)


def moved(images, by):
    """Images [N, C, H, W] moved by pixels to the lower right (above 0) or the upper left, by NumPy's pad."""
    size, more = images.shape[2], abs(by)
    wide = np.pad(images, ((0, 0), (0, 0), (more, more), (more, more)), mode="reflect")
    return wide[:, :, more - by : more - by + size, more - by : more - by + size]


def test_features_and_logits_are_means_over_image_and_mirror_image(model, images):
    once, back = (extract(model, batches(x, 8), **PREPROCESSING) for x in (images, images[:, :, :, ::-1]))
    twice = extract(seeing(model, MIRRORED), batches(images, 8), **PREPROCESSING)
    for part in ("features", "logits"):
        assert np.abs(once[part] - back[part]).max() > 1e-3
        np.testing.assert_allclose(twice[part], (once[part] + back[part]) / 2, atol=1e-5)


@pytest.mark.parametrize("shift", [1, 3, 7])
@pytest.mark.parametrize("mirror", [False, True])
def test_what_is_shifted_counts_as_much_as_what_is_not(model, images, mirror, shift):
    """Weights 1/2, 1/4 and 1/4 of arXiv:2404.00498, section 3.5; a mirror image is one of a shifted image."""
    turned = [slice(None), slice(None, None, -1)] if mirror else [slice(None)]

    def expected(part):
        total = 0
        for by, weight in {0: 1 / 2, -shift: 1 / 4, shift: 1 / 4}.items():
            for way in turned:
                seen = np.ascontiguousarray(moved(images, by)[..., way])
                total += weight / len(turned) * extract(model, batches(seen, 8), **PREPROCESSING)[part]
        return total

    for part in ("features", "logits"):
        looks = Looks(mirror, shift)
        found = extract(seeing(model, looks), batches(images, 8), **PREPROCESSING)[part]
        np.testing.assert_allclose(found, expected(part), atol=1e-5)
        assert looks.count == len(turned) * 3


def test_an_image_and_its_mirror_image_have_the_same_features(model, images):
    found = [
        extract(seeing(model, MIRRORED), batches(x, 8), **PREPROCESSING, precision="float64")["features"]
        for x in (images, images[:, :, :, ::-1])
    ]
    np.testing.assert_array_equal(*found)


def test_the_weights_are_shared_and_the_model_is_left_as_it_was(model):
    about = {"size": 8, "name": "net"}
    twice = seeing(model, MIRRORED)
    assert twice.head is model.head and seen_once(twice).backbone is model.backbone
    assert seen_once(model) is model and as_fitted(model, about) is model and seeing(model, Looks()) is model
    x = torch.zeros(1, 1, 8, 8)
    with torch.inference_mode():
        found = seen_once(as_fitted(model.eval(), about | {"mirror": True, "shift": 2}))
        assert torch.equal(found(x), model(x))


@pytest.mark.parametrize("looks", [Looks(), Looks(True), Looks(False, 2), Looks(True, 1)])
def test_metadata_tell_them(looks):
    assert Looks.of(looks.metadata()) == looks
    assert set(looks.metadata()) == {key for key in ("mirror", "shift") if getattr(looks, key)}


@pytest.mark.parametrize("shift", [8, 100, -1, "two", 1.5, None])
def test_a_shift_that_images_do_not_allow_is_refused(model, shift):
    with pytest.raises(
        InputError, match="net: the shift of its looks is .*, and images have 8 pixels a side"
    ):
        as_fitted(model, {"size": 8, "name": "net", "shift": shift})
