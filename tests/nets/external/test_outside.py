"""Networks of other libraries against these: features, maps, preprocessing, and files without a network."""

import json
import logging
import socket

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from sslood.core.errors import InputError
from sslood.data.sets.convert import converted
from sslood.deploy.pictures import chain_of
from sslood.nets.adopting.presets import load_presets
from sslood.nets.adopting.pretrained import open_pretrained
from sslood.nets.inference.patches import patch_maps
from sslood.nets.networks.files import restore_model

ABOUT = {"set_name": "normal", "classes": ["a", "b"]}
CLIP_LIKE = {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
HALVES = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 3}
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SMALL |= {"image_size": 32, "patch_size": 8}


def images(size, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def opened(name, **how):
    """Return (model restored from arrays and card, card)."""
    arrays, card = open_pretrained(name, **ABOUT, **how)
    return restore_model(arrays, json.loads(json.dumps(card.metadata())), name), card


def features(model, x):
    with torch.inference_mode():
        return model.features(x)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """(A tiny transformer of timm, the file of its weights as a training script writes it)."""
    network = timm.create_model("test_vit4", num_classes=7).eval()
    path = tmp_path_factory.mktemp("timm") / "vit.pth"
    torch.save({"model": {f"module.{key}": value for key, value in network.state_dict().items()}}, path)
    return network, str(path)


def test_timms_features_and_map_are_its_own(vit):
    network, path = vit
    model, card = opened("timm:test_vit4.r160_in1k", weights=path)
    x = images(card.size)
    with torch.inference_mode():
        own = network.forward_head(network.forward_features(x), pre_logits=True)
        tokens = network.forward_features(x)
        spatial = network.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)[-1]
    first = network.num_prefix_tokens
    assert first >= 1 and (card.id, card.classes, card.head_classes) == ("normal", ["a", "b"], None)
    assert torch.allclose(features(model, x), own, atol=1e-5)
    assert torch.allclose(patch_maps(model, x), spatial, atol=1e-5)
    both = opened("timm:test_vit4.r160_in1k:cls+mean", weights=path)[0]
    expected = torch.cat((tokens[:, 0], tokens[:, first:].mean(1)), 1)
    assert torch.allclose(features(both, x), expected, atol=1e-5)


def test_another_size_resamples_the_positions_as_timm_does(vit):
    network, path = vit
    model, card = opened("timm:test_vit4.r160_in1k", weights=path, size=96)
    theirs = timm.create_model("test_vit4", num_classes=7, img_size=96).eval()
    theirs.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(network.state_dict(), theirs))
    with torch.inference_mode():
        own = theirs.forward_head(theirs.forward_features(images(96)), pre_logits=True)
    assert card.size == 96 and patch_maps(model, images(96)).shape[2:] == (6, 6)
    assert torch.allclose(features(model, images(96)), own, atol=1e-5)


def test_timms_preprocessing_is_its_own(vit, tmp_path):
    network, path = vit
    _, card = opened("timm:test_vit4.r160_in1k", weights=path)
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    theirs = create_transform(**resolve_model_data_config(network))(Image.fromarray(pixels))
    ours = torch.from_numpy(converted(tmp_path / "picture.png", chain_of(card.metadata()), []).copy()) / 255
    ours = (ours - torch.tensor(card.mean)[:, None, None]) / torch.tensor(card.std)[:, None, None]
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_torchvisions_features_are_what_its_last_layer_reads(tmp_path):
    whole = torchvision.models.mobilenet_v3_small().eval()
    torch.save(whole.state_dict(), tmp_path / "net.pth")
    model, card = opened("torchvision:mobilenet_v3_small", weights=str(tmp_path / "net.pth"), size=64)
    x = images(64)
    with torch.inference_mode():
        logits = whole.classifier[-1](features(model, x))
        assert torch.allclose(logits, whole(x), atol=1e-5)
        assert torch.allclose(patch_maps(model, x), whole.features(x), atol=1e-5)
    assert card.feature_dim == 1024 and (card.size, card.resize_to) == (64, 73)


@pytest.mark.parametrize("name", ["googlenet", "mnasnet0_5"])
def test_torchvisions_published_networks_are_what_torchvision_makes_of_their_weights(
    name, tmp_path, monkeypatch
):
    """GoogLeNet shifts its input if its weights are published ones; MNASNet asks weights for a version."""
    extra = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    state = torchvision.models.get_model(name, weights=None, **extra).state_dict()
    torch.save(dict(state), tmp_path / "net.pth")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **_: state)
    whole = torchvision.models.get_model(name, weights=weights).eval()
    model, _ = opened(f"torchvision:{name}", weights=str(tmp_path / "net.pth"), size=64)
    last = [layer for layer in whole.modules() if isinstance(layer, torch.nn.Linear)][-1]
    x = images(64)
    with torch.inference_mode():
        assert torch.allclose(last(features(model, x)), whole(x), atol=1e-5)


def folder(path, network, preprocessor):
    network.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return f"hf:{path}"


@pytest.fixture(scope="module")
def registers(tmp_path_factory):
    """(A tiny DINOv2 with four register tokens, the name that opens it)."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    network = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SMALL, num_register_tokens=4)).eval()
    return network, folder(tmp_path_factory.mktemp("hf") / "registers", network, {**CLIP_LIKE, **HALVES})


def test_hugging_faces_features_and_map_leave_registers_out(registers):
    network, name = registers
    model, card = opened(name)
    x = images(32)
    with torch.inference_mode():
        given = network(x)
    assert torch.allclose(features(model, x), given.pooler_output, atol=1e-5)
    patches = given.last_hidden_state[:, 5:].transpose(1, 2).reshape(2, 24, 4, 4)
    assert torch.allclose(patch_maps(model, x), patches, atol=1e-5)
    mean = opened(f"{name}:mean")[0]
    assert torch.allclose(features(mean, x), given.last_hidden_state[:, 5:].mean(1), atol=1e-5)
    assert (card.size, card.resize_to, card.filter, card.square) == (32, 40, "bicubic", "crop")
    assert (card.mean, card.std) == (HALVES["image_mean"], HALVES["image_std"])


@pytest.mark.parametrize(
    "said, found",
    [({"crop_pct": None}, ("squash", None)), ({"crop_pct": 0.8}, ("crop", 40)), ({}, ("squash", None))],
)
def test_a_share_of_null_is_as_good_as_none(registers, tmp_path, said, found):
    """ConvNeXt's crop_pct cuts the middle of a picture; other processors write null."""
    network, _ = registers
    name = folder(tmp_path / "net", network, {"size": {"height": 32, "width": 32}, **HALVES, **said})
    card = open_pretrained(name, **ABOUT)[1]
    assert (card.square, card.resize_to) == found


@pytest.mark.parametrize("text", ["{}", "nope", '{"weight_map": ["a"]}', '{"weight_map": {"w": 3}}', "[]"])
def test_a_damaged_index_of_weights_is_named(registers, tmp_path, text):
    network, _ = registers
    name = folder(tmp_path / "net", network, {**CLIP_LIKE, **HALVES})
    (tmp_path / "net/model.safetensors").unlink()
    (tmp_path / "net/model.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match="model.safetensors.index.json: is no index of weights"):
        open_pretrained(name, **ABOUT)


def test_hugging_faces_preprocessing_is_its_own(registers, tmp_path):
    from transformers import CLIPImageProcessorPil

    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    _, card = open_pretrained(registers[1], **ABOUT)
    theirs = CLIPImageProcessorPil(**CLIP_LIKE, **HALVES)(Image.fromarray(pixels), return_tensors="np")
    ours = converted(tmp_path / "picture.png", chain_of(card.metadata()), []) / 255
    ours = (ours - np.array(card.mean)[:, None, None]) / np.array(card.std)[:, None, None]
    assert np.abs(ours - theirs["pixel_values"][0]).max() < 1e-5


def test_clips_image_tower_gives_its_projections(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = CLIPConfig(text_config=text | {"vocab_size": 50}, vision_config=SMALL, projection_dim=12)
    network = CLIPModel(config).eval()
    said, listener = [], logging.Handler()
    listener.emit = said.append
    logging.getLogger("transformers").addHandler(listener)
    model, card = opened(folder(tmp_path / "clip", network, {**CLIP_LIKE, **HALVES}))
    logging.getLogger("transformers").removeHandler(listener)
    assert not said  # of the tower of texts, which is left out
    x = images(32)
    with torch.inference_mode():
        expected = network.visual_projection(network.vision_model(x).pooler_output)
    assert card.feature_dim == 12 and torch.allclose(features(model, x), expected, atol=1e-5)
    assert patch_maps(model, x).shape == (2, 24, 4, 4)


def test_a_classifier_without_pooler_gives_its_class_token(tmp_path):
    """A layer that no training ever saw is left out, not filled with random numbers."""
    from transformers import ViTConfig, ViTForImageClassification

    network = ViTForImageClassification(ViTConfig(**SMALL)).eval()
    name = folder(tmp_path / "vit", network, {"size": {"height": 32, "width": 32}, **HALVES})
    model, card = opened(name)
    with torch.inference_mode():
        expected = network.vit(images(32)).last_hidden_state[:, 0]
    assert torch.allclose(features(model, images(32)), expected, atol=1e-5)
    assert (card.square, card.resize_to) == ("squash", None)


def test_a_file_needs_neither_network_nor_repository(registers, tmp_path, monkeypatch):
    network, name = registers
    arrays, card = open_pretrained(name, **ABOUT)

    def refuse(*_, **__):
        raise AssertionError("a file asked for the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    moved = card.replace(arch="hf:somewhere/else")
    model = restore_model(arrays, moved.metadata(), "f")
    with torch.inference_mode():
        assert torch.allclose(features(model, images(32)), network(images(32)).pooler_output, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "cannot be built|cannot build it"),
        ({"hidden_size": 2400}, "needs .* weights, the file holds"),
        ({"auto_map": {"AutoModel": "other/repository--code.Net"}}, "keys that are not kept"),
    ],
)
def test_a_record_that_was_tampered_with_is_refused(registers, change, message):
    arrays, card = open_pretrained(registers[1], **ABOUT)
    changed = card.network | {"config": card.network["config"] | change}
    with pytest.raises(InputError, match=message):
        restore_model(arrays, card.replace(network=changed).metadata(), "f")


def test_the_presets_say_what_their_libraries_say():
    libraries = {name: preset for name, preset in load_presets().items() if ":" in preset.network}
    assert len(libraries) == 6
    for preset in libraries.values():
        library, _, name = preset.network.partition(":")
        if library == "torchvision":
            weights = torchvision.models.get_model_weights(name.split(".")[0])[name.split(".")[1]]
            way = weights.transforms()
            assert (preset.weights, [preset.size]) == (weights.url, way.crop_size)
            assert f"-{preset.sha256}." in weights.url and [preset.resize_to] == way.resize_size
            assert (list(preset.mean), list(preset.std)) == (way.mean, way.std)
            assert preset.filter == way.interpolation.value
        if library == "timm":
            config = timm.models.get_pretrained_cfg(name)
            assert (preset.weights, preset.licence) == (config.url, "Apache-2.0")
            assert (preset.mean, preset.std) == (config.mean, config.std)
            assert preset.filter == config.interpolation


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("timm:vit_tiny_patch61_224", {}, "has no such model .did you mean 'vit_tiny_patch16"),
        ("timm:test_vit4", {"weights": "nowhere.pth"}, "'nowhere.pth': no such file here"),
        ("timm:hf_hub:x", {}, "write timm:NAME, hf:NAME, torchvision:NAME"),
        ("timm:resnet18_untrained", {}, "has no such model"),
        ("torchvision:resnet81", {}, "no such classifier .did you mean 'resnet18'"),
        ("torchvision:resnet18.BEST", {}, "no weights BEST; there are IMAGENET1K_V1"),
        ("torchvision:vit_b_16", {"size": 96}, "takes images of 224 pixels only, not 96"),
        ("torchvision:resnet18:cls", {}, "leave :cls out"),
        ("hf:somebody/something", {}, "cannot be fetched .HF_HUB_OFFLINE is set.*efficientnet-lite0"),
        ("resnet-50", {}, "unknown backbone 'resnet-50' .did you mean 'resnet50'"),
    ],
)
def test_what_cannot_be_opened_says_why(name, how, message, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        open_pretrained(name, **ABOUT, **how)


def test_weights_of_another_network_or_size_are_refused(vit, registers, tmp_path):
    other = str(tmp_path / "other.pth")
    torch.save(nn.Linear(2, 2).state_dict(), other)
    for name in ("timm:test_vit4.r160_in1k", "torchvision:resnet18", registers[1]):
        with pytest.raises(InputError, match=rf"other.pth: the weights do not fit '{name}'.*[Mm]issing"):
            open_pretrained(name, weights=other, **ABOUT)
    state = vit[0].state_dict()
    del state["blocks.0.attn.qkv.weight"]
    torch.save(state, other)
    with pytest.raises(InputError, match="1 missing: blocks.0.attn.qkv.weight"):
        open_pretrained("timm:test_vit4.r160_in1k", weights=other, **ABOUT)
    with pytest.raises(InputError, match="does not accept images of 3x33x33"):
        open_pretrained("timm:test_vit.r160_in1k", weights=vit_file(tmp_path), size=33, **ABOUT)


def vit_file(folder):
    torch.save(timm.create_model("test_vit").state_dict(), folder / "test_vit.pth")
    return str(folder / "test_vit.pth")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(InputError, match="needs the package timm, which is not installed: pip install timm"):
        open_pretrained("timm:test_vit", **ABOUT)
