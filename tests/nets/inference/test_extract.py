import numpy as np
import pytest
import torch

from sslood.core.batches import batches
from sslood.core.errors import InputError
from sslood.nets.inference.extract import check_batch_invariance, check_finite, extract
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.heads import build_head, build_projector
from sslood.nets.networks.model import Model

PREPROCESSING = {"mean": [0.3], "std": [0.4]}


@pytest.fixture
def model():
    with seeded(0):
        return Model(build_backbone("resnet-8-4", channels=1), build_head(16, 3), build_projector(16, [8, 4]))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (37, 1, 8, 8), np.uint8)


def test_outputs_are_the_networks_own_in_order_whatever_the_batch(model, images):
    found = extract(model, batches(images, 10), **PREPROCESSING)
    assert {key: value.shape for key, value in found.items()} == {
        "features": (37, 16),
        "logits": (37, 3),
        "projections": (37, 4),
    }
    with torch.inference_mode():
        x = (torch.from_numpy(images) / 255 - 0.3) / 0.4
        expected = model.eval()(x).numpy()
    np.testing.assert_allclose(found["logits"], expected, atol=1e-5)
    np.testing.assert_allclose(
        extract(model, batches(images, 37), **PREPROCESSING)["logits"], expected, atol=1e-5
    )


def test_a_model_left_in_training_mode_is_evaluated_all_the_same(model, images):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    extract(model, batches(images, 10), **PREPROCESSING)
    assert not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_layers_that_mix_the_images_of_a_batch_are_found(model, images):
    check_batch_invariance(model, images, name="good", **PREPROCESSING)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # no running statistics: the batch's are used for ever
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    with pytest.raises(InputError, match="model 'bad': the features of an image depend on the other images"):
        check_batch_invariance(model, images, name="bad", **PREPROCESSING)


def test_values_that_are_not_finite_are_counted():
    values = np.zeros((5, 3), np.float32)
    values[1, 2], values[3] = np.nan, np.inf
    with pytest.raises(InputError, match=r"model 'm', set 'letters \(test\)': 2 of 5 images have features"):
        check_finite({"features": values}, model="m", where="letters (test)")


def test_an_empty_split_is_refused(model):
    with pytest.raises(InputError, match="without images"):
        extract(model, batches(np.empty((0, 1, 8, 8), np.uint8), 4), **PREPROCESSING)
