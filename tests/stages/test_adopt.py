"""A model from outside through the stage: the published ResNet-20 on real images, and what goes wrong."""

import hashlib
import importlib
import pickle
import sys

import numpy as np
import pytest
import torch
import yaml
from torchvision.models import resnet18

from sslood.core.batches import batches
from sslood.core.files import load_tensors, save_tensors
from sslood.nets.inference.extract import extract
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import load_model
from stages import adopt
from tests.kit.small import call, write_sets
from tests.nets.networks.test_published_resnet20 import MEAN, STD, cifar10_test

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FILE = "checkpoints/akamaster_resnet20/resnet20-12fca82f.th"


@pytest.fixture(scope="module")
def real(mirror, tmp_path_factory):
    """CIFAR-10 test images 0 to 299 as train, 300 to 599 as validation, and the entry of the profile."""
    folder = tmp_path_factory.mktemp("real")
    images, labels = cifar10_test(mirror, 1000)
    with open(mirror / "cifar-10-batches-py" / "batches.meta", "rb") as file:
        names = pickle.load(file)["label_names"]
    tensors = {}
    for split, rows in {"train": slice(0, 300), "validation": slice(300, 600)}.items():
        tensors |= {f"{split}.images": images[rows].astype(np.uint8), f"{split}.labels": labels[rows]}
    metadata = {"name": "cifar10", "size": 32, "channels": 3, "classes": names, "resize": "none"}
    save_tensors(folder / "cifar10.safetensors", tensors, kind="set", metadata=metadata)
    entry = {
        "weights": str(mirror / FILE),
        "sha256": hashlib.sha256((mirror / FILE).read_bytes()).hexdigest(),
        "architecture": "resnet-20-16",
        "layout": "akamaster",
        "saw_validation": False,
        "size": 32,
        "channels": 3,
        "mean": list(MEAN),
        "std": list(STD),
        "classes": NAMES,
        "min_accuracy": 0.88,
    }
    return folder, entry


def adopted(folder, entry, id_set="cifar10"):
    (folder / "params.yaml").write_text(yaml.safe_dump({"models": {"net": entry}}))
    return call(
        adopt.main, name="net", entry=f"{folder}/params.yaml:models.net", seed=3,
        id_set=folder / f"{id_set}.safetensors", out=folder / "net-3.safetensors",
    )  # fmt: skip


def resaved(folder, entry, change):
    """Write the checkpoint again with its weights changed; return the entry that points there."""
    content = torch.load(entry["weights"], map_location="cpu", weights_only=True)
    change(content["state_dict"])
    torch.save(content, folder / "changed.th")
    digest = hashlib.sha256((folder / "changed.th").read_bytes()).hexdigest()
    return entry | {"weights": str(folder / "changed.th"), "sha256": digest}


def test_the_published_resnet20_has_its_accuracy_as_a_model_file(real, mirror, capsys):
    folder, entry = real
    assert adopted(folder, entry | {"sha256": entry["sha256"][:8]}) == 0
    assert f"(sha256 {entry['sha256']})" in capsys.readouterr().out
    model, card = load_model(folder / "net-3.safetensors")
    assert card.settings["sha256"] == entry["sha256"]
    assert (card.name, card.seed, card.objective) == ("net", 3, "adopted")
    assert card.saw_validation is False
    assert card.head_classes == list(range(10)) and card.feature_dim == 64
    images, labels = cifar10_test(mirror, 1000)
    found = extract(model, batches(images, 250), **card.preprocessing)["logits"].argmax(1) == labels
    # 91.73 % of all 10,000; three standard errors of 1,000 images are 2.6 points
    assert abs(found.mean() - 0.9173) < 0.026
    assert card.settings["measured"]["accuracy"] == pytest.approx(found[300:600].mean(), abs=1e-4)


def test_a_head_in_another_order_comes_into_the_order_of_the_id_set(real):
    folder, entry = real
    assert adopted(folder, entry) == 0
    before = load_tensors(folder / "net-3.safetensors")[0]
    turn = list(range(1, 10)) + [0]

    def roll(state):
        for part in ("weight", "bias"):
            state[f"module.linear.{part}"] = state[f"module.linear.{part}"][turn]

    assert adopted(folder, resaved(folder, entry, roll) | {"classes": [NAMES[i] for i in turn]}) == 0
    after = load_tensors(folder / "net-3.safetensors")[0]
    assert all(np.array_equal(before[key], after[key]) for key in before)


def swap(first, second):
    def change(state):
        state[first], state[second] = state[second], state[first]

    return change


MISLOADS = {
    "two layers of one shape swapped": (
        swap("module.layer1.0.conv1.weight", "module.layer1.2.conv2.weight"),
        {},
    ),
    "mean and std swapped": (None, {"mean": list(STD), "std": list(MEAN)}),
    "images of 0 to 255 assumed": (None, {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}),
    "classes by the alphabet of another language": (None, {"classes": NAMES[::-1]}),
}


@pytest.mark.parametrize("name", MISLOADS)
def test_a_silent_misload_trips_the_floor(real, name, capsys):
    folder, entry = real
    (folder / "net-3.safetensors").unlink(missing_ok=True)
    change, values = MISLOADS[name]
    entry = (resaved(folder, entry, change) if change else entry) | values
    assert adopted(folder, entry) == 1
    error = capsys.readouterr().err
    assert "the accuracy on ID validation is 0." in error and "below the floor of 0.88" in error
    assert not (folder / "net-3.safetensors").exists()


def rename(state):
    state["module.layer2.0.convolution.weight"] = state.pop("module.layer2.0.conv1.weight")


@pytest.mark.parametrize(
    ("change", "values", "says"),
    [
        (rename, {}, "1 missing: 'layer2.0.conv1.weight'; 1 unexpected: 'layer2.0.convolution."),
        (None, {"strip": []}, "unexpected: 'module.conv1.weight'"),
        (None, {"architecture": "resnet-20-8"}, "'conv1.weight' has shape [16, 3, 3, 3], the architecture"),
        (None, {"architecture": "resnet-26-16"}, "missing: 'layer1.3.conv1.weight'"),
        (None, {"head": "fc"}, "missing: 'fc.weight', 'fc.bias'"),
        (None, {"sha256": "0" * 64}, "its sha256 is 12fca82f"),
        (None, {"sha256": "12fca82"}, "must be 64 hexadecimal digits"),
        (None, {"size": 224}, "size is 224, but the images of set 'cifar10' have 32; change data.size"),
        (None, {"mean": [0.5]}, "mean needs one number for each of 3 channels"),
        (None, {"std": [0.2, 0.0, 0.2]}, "std must be above 0, found 0.0"),
        (None, {"classes": [*NAMES[:9], "lorry"]}, "lorry, truck are in one list only"),
        (None, {"min_accuracy": 0}, "a classifier needs min_accuracy"),
        (None, {"head": ""}, "an encoder needs min_knn or min_norm"),
        (None, {"layout": "akamster"}, "unknown layout 'akamster'"),
        (None, {"min_acuracy": 0.5}, "did you mean 'min_accuracy'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(real, change, values, says, capsys):
    folder, entry = real
    entry = (resaved(folder, entry, change) if change else entry) | values
    assert adopted(folder, entry) == 1
    assert says in capsys.readouterr().err


def test_an_encoder_is_held_against_its_neighbours_and_its_norm(real, capsys):
    folder, entry = real
    encoder = entry | {"head": "", "drop": ["linear."], "classes": [], "min_accuracy": 0.0}
    assert adopted(folder, encoder | {"min_knn": 0.8, "min_norm": 5.0}) == 0
    model, card = load_model(folder / "net-3.safetensors")
    assert model.head is None and card.head_classes is None
    assert adopted(folder, encoder | {"min_knn": 0.95}) == 1
    assert "the nearest-neighbour accuracy on ID validation is 0." in capsys.readouterr().err
    assert adopted(folder, encoder | {"min_norm": 50.0}) == 1
    assert "the mean feature length on ID validation is" in capsys.readouterr().err


def test_an_architecture_of_your_own(real, capsys):
    """solo-learn's ResNet-18 with drawn weights: into a model file and back; not if its source changed."""
    folder, entry = real
    with seeded(0):
        state = resnet18().state_dict()
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    state["conv1.weight"] = state["conv1.weight"][:, :, 2:5, 2:5].clone()
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in state.items()}}, folder / "s.ckpt")
    digest = hashlib.sha256((folder / "s.ckpt").read_bytes()).hexdigest()
    values = {"weights": str(folder / "s.ckpt"), "sha256": digest, "layout": "solo_learn", "min_knn": 0.05}
    own = {"architecture": "architectures.solo_learn:resnet18", "classes": [], "min_accuracy": 0.0}
    assert adopted(folder, entry | values | own) == 0
    model, card = load_model(folder / "net-3.safetensors")
    assert card.feature_dim == 512
    assert list(card.code) == ["architectures/solo_learn.py"]
    assert model.backbone.conv1.padding == (2, 2)
    tensors, metadata = load_tensors(folder / "net-3.safetensors")
    metadata["code"] = {"architectures/solo_learn.py": "0" * 64}
    kept = {key: value for key, value in metadata.items() if key not in ("kind", "format")}
    save_tensors(folder / "old.safetensors", tensors, kind="model", metadata=kept)
    with pytest.raises(ValueError, match="has changed since this file was made"):
        load_model(folder / "old.safetensors")


def test_a_torchvision_file_with_a_class_too_many_is_refused(tmp_path, capsys):
    """A strict load: nothing of a 1000-class ImageNet file fits eight digits by accident."""
    write_sets(tmp_path)
    with seeded(0):
        torch.save(build_backbone("resnet-8-4", channels=1).state_dict(), tmp_path / "w.pth")
    entry = {
        "weights": str(tmp_path / "w.pth"),
        "sha256": hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest(),
        "architecture": "resnet-8-4", "layout": "torchvision", "saw_validation": False,
        "size": 8, "channels": 1, "mean": [0.3], "std": [0.4],
        "classes": [str(label) for label in range(8)], "min_accuracy": 0.5,
    }  # fmt: skip
    assert adopted(tmp_path, entry, "digits") == 1
    assert "2 missing: 'fc.weight', 'fc.bias'" in capsys.readouterr().err
    values = {"layout": "plain", "classes": [], "min_accuracy": 0.0, "min_knn": 0.3}
    assert adopted(tmp_path, entry | values, "digits") == 0
    assert adopted(tmp_path, entry | values | {"min_accuracy": 0.5}, "digits") == 1
    assert "min_accuracy: the model has no head, so no accuracy; use min_knn or" in capsys.readouterr().err


@pytest.fixture
def plain(tmp_path):
    """Digits, an encoder's weights in a file, and its entry without a floor."""
    write_sets(tmp_path)
    with seeded(0):
        state = build_backbone("resnet-8-4", channels=1).state_dict()
    entry = {
        "architecture": "resnet-8-4", "layout": "plain", "saw_validation": False, "size": 8, "channels": 1,
        "mean": [0.3], "std": [0.4], "classes": [], "weights": str(tmp_path / "w.pth"),
    }  # fmt: skip
    return tmp_path, state, entry


def saved(folder, entry, state):
    torch.save(state, folder / "w.pth")
    return entry | {"sha256": hashlib.sha256((folder / "w.pth").read_bytes()).hexdigest()}


@pytest.mark.parametrize("floor", ["min_knn", "min_norm", "min_accuracy"])
@pytest.mark.parametrize(
    ("values", "factor", "says"),
    [
        ({"mean": [np.nan]}, 1, ".mean must be finite, found nan"),
        ({"mean": [-np.inf]}, 1, ".mean must be finite, found -inf"),
        ({"std": [np.nan]}, 1, ".std must be above 0, found nan"),
        ({"std": [np.inf]}, 1, ".std must be above 0, found inf"),
        ({}, 1e30, "of 100 ID images are NaN or infinite; the weights load, but do not compute"),
        ({}, np.nan, "'conv1.weight' has NaN or infinite values"),
        ({}, 1e300, "'conv1.weight' has NaN or infinite values"),
    ],
)
def test_no_number_that_is_not_finite_passes_a_floor(plain, floor, values, factor, says, capsys):
    """The accuracy of NaN was 1, the length of infinite features is above any floor."""
    folder, state, entry = plain
    state = {
        key: value.double() * factor
        if value.ndim == 4 and (factor != 1e300 or key == "conv1.weight")
        else value
        for key, value in state.items()
    }
    entry = saved(folder, entry | values | {floor: 0.01}, state)
    if floor == "min_accuracy":
        state |= {"head.weight": torch.zeros(8, 16), "head.bias": torch.zeros(8)}
        entry = saved(folder, entry | {"head": "head", "classes": [str(label) for label in range(8)]}, state)
    assert adopted(folder, entry, "digits") == 1
    assert says in capsys.readouterr().err and not (folder / "net-3.safetensors").exists()


def test_a_floor_that_is_not_finite_is_refused(plain, capsys):
    folder, state, entry = plain
    for value in (np.nan, np.inf):
        assert adopted(folder, saved(folder, entry | {"min_norm": value}, state), "digits") == 1
        assert f"min_norm must be at least 0, found {value}" in capsys.readouterr().err


OWN = """
from torch import nn
def logits(count=1000):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, count))
def few():
    return logits(12)
def encoder():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU())
"""


@pytest.mark.parametrize(
    ("function", "layers", "says"),
    [
        (
            "logits",
            (1, 3),
            "the 1000 features of architectures.trial:logits are the output of its linear layer '3'",
        ),
        ("few", (1, 3), "the 12 features of architectures.trial:few are the output of its linear layer '3'"),
        ("encoder", (1,), ""),
        ("logits:3", (1,), ""),
    ],
)
def test_class_logits_as_features_are_said(plain, monkeypatch, function, layers, says, capsys):
    folder, _, entry = plain
    (folder / "architectures").mkdir()
    (folder / "architectures/trial.py").write_text(OWN)
    monkeypatch.chdir(folder)
    package = importlib.import_module("architectures")
    monkeypatch.setattr(package, "__path__", [str(folder / "architectures")])
    monkeypatch.delitem(sys.modules, "architectures.trial", raising=False)
    sizes = {1: (20, 64), 3: (12 if function == "few" else 1000, 20)}
    with seeded(0):
        state = {f"{layer}.weight": torch.randn(sizes[layer]) for layer in layers}
    state |= {f"{layer}.bias": torch.zeros(sizes[layer][0]) for layer in layers}
    own = {"architecture": f"architectures.trial:{function}", "min_knn": 0.05}
    assert adopted(folder, saved(folder, entry | own, state), "digits") == 0
    found = capsys.readouterr().err
    assert says in found and ("class logits" in found) == bool(says)
    assert not says or "take that layer off (architectures.<file>:<function>:3)" in found
