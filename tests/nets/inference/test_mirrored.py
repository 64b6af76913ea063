import numpy as np
import pytest
import torch

from sslood.core.batches import batches
from sslood.nets.inference.extract import extract
from sslood.nets.inference.mirrored import as_fitted, mirrored, seen_once
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model

PREPROCESSING = {"mean": [0.3], "std": [0.4]}


@pytest.fixture
def model():
    with seeded(0):
        return Model(build_backbone("resnet-8-4", channels=1), build_head(16, 3))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (21, 1, 8, 8), np.uint8)


def test_features_and_logits_are_means_over_image_and_mirror_image(model, images):
    once, back = (extract(model, batches(x, 8), **PREPROCESSING) for x in (images, images[:, :, :, ::-1]))
    twice = extract(mirrored(model), batches(images, 8), **PREPROCESSING)
    for part in ("features", "logits"):
        assert np.abs(once[part] - back[part]).max() > 1e-3
        np.testing.assert_allclose(twice[part], (once[part] + back[part]) / 2, atol=1e-5)


def test_an_image_and_its_mirror_image_have_the_same_features(model, images):
    found = [
        extract(mirrored(model), batches(x, 8), **PREPROCESSING, precision="float64")["features"]
        for x in (images, images[:, :, :, ::-1])
    ]
    np.testing.assert_array_equal(*found)


def test_the_weights_are_shared_and_the_model_is_left_as_it_was(model):
    twice = mirrored(model)
    assert twice.head is model.head and seen_once(twice).backbone is model.backbone
    assert seen_once(model) is model and as_fitted(model, {}) is model
    x = torch.zeros(1, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(seen_once(as_fitted(model.eval(), {"mirror": True}))(x), model(x))
