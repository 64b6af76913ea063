"""Patches against the layers by hand, distances against scipy, a pasted object on photographs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer

from sslood.core.errors import InputError
from sslood.data.sets.convert import Chain
from sslood.deploy.maps.drawing import enlarged
from sslood.deploy.maps.patches import Patches, chosen, fit_patches
from sslood.deploy.maps.reading import Reader
from sslood.deploy.pictures import read_pictures
from sslood.nets.adopting.pretrained import open_pretrained
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import restore_model
from sslood.nets.networks.model import Model
from tests.kit.small import digit_images, model_card


@pytest.fixture(scope="module")
def model():
    with seeded(0):
        return Model(build_backbone("resnet-8-4", channels=1)).eval()


@pytest.fixture(scope="module")
def reader(model):
    return Reader(model, model_card().metadata())


@pytest.fixture(scope="module")
def images():
    return digit_images()[0][:90]


@pytest.fixture(scope="module")
def patches(reader, images):
    return fit_patches(reader, [images[:40], images[40:60]], 60, [images[60:]], seed=0)


@torch.inference_mode()
def test_a_patch_holds_three_resolutions_on_the_middle_one(model, reader, images):
    x = (torch.from_numpy(images[:5]).float() / 255 - 0.3) / 0.37
    backbone = model.backbone
    fine = backbone.layer1(F.relu(backbone.bn1(backbone.conv1(x))))
    middle = backbone.layer2(fine)
    coarse = backbone.layer3(middle)
    expected = [F.avg_pool2d(fine, 2), middle, F.interpolate(coarse, (4, 4), mode="bilinear")]
    features, vectors = reader(images[:5])
    assert (reader.grid, reader.widths) == ((4, 4), [4, 8, 16]) and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, torch.cat(expected, 1).permute(0, 2, 3, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features, coarse.mean((2, 3)), rtol=1e-5, atol=1e-6)


def test_patches_of_a_transformer_are_its_tokens():
    with seeded(0):
        network = VisionTransformer(16, 4, 2, 2, 8, 16).eval()
    network.heads = nn.Identity()
    reader = Reader(Model(network), model_card(size=16, channels=3, mean=[0.5] * 3, std=[0.5] * 3).metadata())
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), np.uint8)
    with torch.inference_mode():
        tokens = network._process_input((torch.from_numpy(image).float() / 255 - 0.5) / 0.5)
        tokens = network.encoder(torch.cat((network.class_token, tokens), 1))
    np.testing.assert_allclose(reader(image)[1][0].reshape(16, 8), tokens[0, 1:], rtol=1e-5, atol=1e-6)


def test_maps_with_channels_last_are_turned():
    """The features of a Swin transformer are the mean of its last map, which has two places a side here."""
    with seeded(0):
        network = SwinTransformer([4, 4], 8, [1, 1], [1, 2], [2, 2])
    network.head = nn.Identity()
    reader = Reader(Model(network), model_card(size=16, channels=3, mean=[0.5] * 3, std=[0.5] * 3).metadata())
    features, vectors = reader(np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), np.uint8))
    assert vectors.shape == (3, 2, 2, 16)
    np.testing.assert_allclose(vectors.mean((1, 2)), features, rtol=1e-4, atol=1e-6)


def test_a_network_without_places_is_named():
    flat = Model(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)))
    with pytest.raises(InputError, match="model 'scratch': the network gives no map of patches"):
        Reader(flat, model_card().metadata())


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_heat_is_the_distance_to_the_nearest_patch_on_the_scale_of_id(reader, images, patches):
    vectors = reader(images[60:])[1]
    parts = np.split(vectors.astype(np.float64) - patches.centre, [4, 12], axis=-1)
    rows = np.concatenate([unit(part) for part in parts], -1) / 3**0.5
    distance = cdist(rows.reshape(-1, 28), patches.bank.astype(np.float64)).min(1).reshape(-1, 4, 4)
    smooth = np.stack([gaussian_filter(one, 1.0, mode="nearest") for one in distance])
    assert patches.scale.median == pytest.approx(np.quantile(smooth, 0.5), rel=1e-4)
    assert patches.scale.top == pytest.approx(np.quantile(smooth, 0.999), rel=1e-4)
    expected = (smooth - patches.scale.median) / (patches.scale.top - patches.scale.median)
    heat = patches.heat(vectors)
    np.testing.assert_allclose(heat, expected, atol=1e-5)
    assert np.median(heat) == pytest.approx(0, abs=1e-4) and (heat > 1).mean() <= 0.0021
    alone = np.concatenate([patches.heat(reader(images[place : place + 1])[1]) for place in range(60, 65)])
    np.testing.assert_allclose(alone, heat[:5], atol=1e-5)


def test_the_bank_is_of_train_and_the_same_in_two_runs(reader, images, patches):
    again = fit_patches(reader, [images[:60]], 60, [images[60:70], images[70:]], seed=0)
    np.testing.assert_array_equal(again.bank, patches.bank)
    assert again.scale == patches.scale
    train = patches.heat(reader(images[:60])[1])
    assert len(patches.bank) <= 60 * 16 and train.mean() < patches.heat(reader(images[60:])[1]).mean()
    other = fit_patches(reader, [images[:60]], 60, [images[60:]], seed=1)
    assert not np.array_equal(other.bank, patches.bank), "the first patch is another"


def test_what_cannot_be_fitted_says_so(reader, images):
    for train, heldout in (([], [images]), ([images], [])):
        with pytest.raises(InputError, match="there are none"):
            fit_patches(reader, train, len(train), heldout, seed=0)


def test_pictures_that_are_all_alike_have_a_scale(reader, images):
    same = np.repeat(images[:1], 4, axis=0)
    patches = fit_patches(reader, [same], 4, [same], seed=0)
    assert len(patches.bank) <= 16 and np.abs(patches.heat(reader(same)[1])).max() < 0.2
    assert patches.heat(reader(images[1:2])[1]).max() > 10


def test_a_file_holds_the_same_patches(patches, reader, images):
    arrays, said = patches.pack()
    assert {array.dtype.name for array in arrays.values()} == {"float16", "float32"}
    again = Patches.unpack(arrays, said["patches"], "d.safetensors")
    np.testing.assert_array_equal(again.bank, patches.bank)
    vectors = reader(images[:3])[1]
    np.testing.assert_array_equal(again.heat(vectors), patches.heat(vectors))


@pytest.mark.parametrize(
    "lie",
    [
        lambda arrays, said: arrays.pop("patches.bank"),
        lambda arrays, said: arrays.update({"patches.more": np.zeros(2, np.float32)}),
        lambda arrays, said: arrays.update({"patches.bank": arrays["patches.bank"][:0]}),
        lambda arrays, said: arrays.update({"patches.bank": arrays["patches.bank"].astype(np.float32)}),
        lambda arrays, said: arrays.update({"patches.centre": arrays["patches.centre"] * np.float32("nan")}),
        lambda arrays, said: said.update(widths=[4, 8, 17]),
        lambda arrays, said: said.update(widths=[28, 28, -28]),
        lambda arrays, said: said.update(widths=[]),
        lambda arrays, said: said.update(scale={}),
        lambda arrays, said: said["scale"].update(top=said["scale"]["median"]),
        lambda arrays, said: said["scale"].update(top=float("nan")),
        lambda arrays, said: said.pop("scale"),
    ],
)
def test_patches_that_contradict_themselves_are_refused(patches, lie):
    arrays, content = patches.pack()
    lie(arrays, content["patches"])
    with pytest.raises(InputError, match="d.safetensors"):
        Patches.unpack(arrays, content["patches"], "d.safetensors")


def test_patches_of_another_network_are_refused(patches):
    with pytest.raises(InputError, match="have 28 values, those of the network 5"):
        patches.heat(np.zeros((1, 2, 2, 5), np.float32))


def test_chosen_places_are_even():
    assert chosen(10, 4).tolist() == [0, 3, 6, 9] and chosen(3, 5).tolist() == [0, 1, 2]


def test_a_pasted_object_is_found_on_photographs(mirror):
    """Photographs of hands, into which a sixth of the area comes from a photograph of something else."""
    photos = mirror / "photos"
    hands = sorted((photos / "sign-digits").glob("*/*"))[::11][:44]
    things = sorted((photos / "imagenet-samples").iterdir())[::83][:12]
    arrays, card = open_pretrained("efficientnet-lite0", set_name="hands", classes=["hand"], size=128)
    reader = Reader(restore_model(arrays, card.metadata(), "m"), card.metadata())
    (_, own), (_, others) = (
        next(read_pictures(paths, Chain(side, 3))) for paths, side in ((hands, 128), (things, 52))
    )
    test, boxes = own[32:].copy(), np.zeros((12, 128, 128), bool)
    for row, (y, x) in enumerate(np.random.default_rng(0).integers(0, 128 - 52, (12, 2))):
        test[row, :, y : y + 52, x : x + 52] = others[row]
        boxes[row, y : y + 52, x : x + 52] = True
    patches = fit_patches(reader, [own[:24]], 24, [own[24:32]], seed=0)
    heat = np.stack([enlarged(one, 128, 128) for one in patches.heat(reader(test)[1])])
    assert roc_auc_score(boxes.ravel(), heat.ravel()) > 0.9
    assert np.mean([box.flat[one.argmax()] for box, one in zip(boxes, heat, strict=True)]) > 0.7
