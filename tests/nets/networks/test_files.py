import copy
import time

import numpy as np
import pytest
import torch

from sslood.core.errors import InputError
from sslood.core.files import load_tensors, read_metadata, save_tensors
from sslood.nets.backbones.resnet import ResNet
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.card import ModelCard, check_fits
from sslood.nets.networks.files import load_model, save_model
from sslood.nets.networks.heads import build_head, build_projector
from sslood.nets.networks.model import Model
from sslood.nets.networks.reference import numbers, reference_answer
from tests.kit.small import model_card, write_encoder


@pytest.fixture
def written(tmp_path):
    """A model file with head and projector, and its modules."""
    with seeded(3):
        backbone = build_backbone("resnet-8-4", channels=1)
        modules = {"backbone": backbone, "head": build_head(16, 3), "projector": build_projector(16, [8, 4])}
        backbone(torch.randn(4, 1, 8, 8))  # moves the running statistics
    path = tmp_path / "model.safetensors"
    save_model(path, modules, model_card(head_classes=[0, 2, 5], projector=[8, 4]))
    return path, modules


def test_a_model_comes_back_as_it_was(written):
    path, modules = written
    before = torch.get_rng_state()
    model, metadata = load_model(path)
    assert torch.equal(before, torch.get_rng_state())
    assert not model.training and metadata.head_classes == [0, 2, 5]
    for module in modules.values():
        module.eval()
    with seeded(0):
        x = torch.randn(2, 1, 8, 8)
    for name, module in modules.items():
        loaded = getattr(model, name).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in module.state_dict().items())
    features = modules["backbone"](x)  # contiguous; a loaded model computes in channels_last
    torch.testing.assert_close(model.features(x), features)
    torch.testing.assert_close(model(x), modules["head"](features))
    torch.testing.assert_close(model.projector(features), modules["projector"](features))


def rewrite(path, change):
    """Change the tensors and the metadata of a file in place."""
    tensors, metadata = load_tensors(path)
    tensors = {name: array.copy() for name, array in tensors.items()}
    metadata = {key: value for key, value in metadata.items() if key not in ("kind", "format")}
    change(tensors, metadata)
    save_tensors(path, tensors, kind="model", metadata=metadata)


def test_an_encoder_has_no_logits(tmp_path):
    model, _ = load_model(write_encoder(tmp_path / "a.safetensors"))
    assert model.head is None and model.projector is None
    with pytest.raises(InputError, match="without a classifier head"):
        model(torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("backbone.bn1.weight"), "'backbone.bn1.weight' is missing"),
        (lambda t: t.update({"backbone.extra": t["head.bias"]}), "'backbone.extra' has no place"),
        (lambda t: t.update({"head.bias": t["head.bias"][:2]}), r"'head.bias' has shape \[2\].*needs \[3\]"),
    ],
)
def test_a_weight_that_does_not_fit_is_named(written, change, message):
    path, _ = written
    rewrite(path, lambda tensors, metadata: change(tensors))
    with pytest.raises(InputError, match=message):
        load_model(path)


def test_a_cut_file_and_a_file_of_another_kind_are_refused(written, tmp_path):
    path, _ = written
    content = path.read_bytes()
    path.write_bytes(content[:-7])
    with pytest.raises(InputError, match="not a complete safetensors file"):
        load_model(path)
    save_tensors(path, {}, kind="set", metadata={})
    with pytest.raises(InputError, match="expected a file of kind 'model', found 'set'"):
        load_model(path)


def test_missing_metadata_is_an_error_when_writing_and_when_reading(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(TypeError, match="arch"):
        ModelCard(name="x")
    with pytest.raises(InputError, match="weight 'backbone.conv1.weight' is missing"):
        save_model(path, {}, model_card())
    assert not path.exists()
    save_tensors(path, {}, kind="model", metadata={"name": "x"})
    with pytest.raises(InputError, match="metadata lacks arch"):
        load_model(path)


def test_a_file_of_an_earlier_version_without_a_reference_has_to_be_written_again(written):
    path, _ = written
    rewrite(path, lambda tensors, metadata: metadata.pop("reference"))
    with pytest.raises(InputError, match="metadata lacks reference; write it again with the stage"):
        load_model(path)


def test_what_a_model_computes_is_recorded_and_checked(written, monkeypatch):
    path, modules = written
    reference = read_metadata(path)["reference"]
    assert {name: len(values) for name, values in reference.items()} == {"features": 4, "logits": 4}
    x = torch.from_numpy(numbers(64, 0).reshape(1, 1, 8, 8))
    features = copy.deepcopy(modules["backbone"]).eval().double()(x)
    assert reference["features"][0] == pytest.approx(features.norm().item(), rel=1e-5)
    again = path.with_name("again.safetensors")
    load_model(path)
    save_model(again, modules, model_card(head_classes=[0, 2, 5], projector=[8, 4]))
    assert again.read_bytes() == path.read_bytes()
    forward = ResNet.forward
    monkeypatch.setattr(ResNet, "forward", lambda self, x: forward(self, x) * 1.0)
    load_model(path)
    monkeypatch.setattr(ResNet, "forward", lambda self, x: forward(self, x) * 1.001)
    with pytest.raises(InputError, match="computes other features than when.*stage `pretrain` again"):
        load_model(path)
    save_model(again, modules, model_card(head_classes=[0, 2, 5], projector=[8, 4]))
    assert again.read_bytes() != path.read_bytes()  # so what follows runs again


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_neither_written_nor_read(written, value):
    path, modules = written
    rewrite(path, lambda tensors, metadata: tensors["head.bias"].__setitem__(1, value))
    with pytest.raises(InputError, match="weight 'head.bias' has NaN or infinite values; the training div"):
        load_model(path)
    torch.nn.init.constant_(modules["head"].bias, value)
    with pytest.raises(InputError, match="weight 'head.bias' has NaN or infinite values"):
        save_model(path, modules, model_card(head_classes=[0, 2, 5], projector=[8, 4]))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_weights_of_another_type_are_refused(written, dtype):
    path, _ = written
    rewrite(path, lambda tensors, _: tensors.update({"head.bias": tensors["head.bias"].astype(dtype)}))
    with pytest.raises(InputError, match=f"'head.bias' is {np.dtype(dtype)}, which no stage writes"):
        load_model(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", [np.nan]), ("mean", []), ("mean", 0.3), ("mean", [0.3, 0.3]), ("mean", ["0.3"]),
        ("std", [0.0]), ("std", [-1.0]), ("std", [np.inf]), ("std", [np.nan]), ("std", None),
        ("size", 0), ("size", 8.0), ("size", True), ("size", 10**9), ("seed", "0"), ("seed", None),
        ("classes", "01234567"), ("head_classes", []), ("head_classes", [0, 2, 8]), ("name", 3),
        ("head_classes", [0, 2, 2]), ("head_classes", [-1, 2, 5]), ("head_classes", [0.0, 2.0, 5.0]),
        ("projector", 5), ("projector", []), ("projector", [8, "8"]), ("projector", [8.0]),
        ("projector", [0]), ("feature_dim", 10**15), ("stochastic", "x"), ("stochastic", {}),
        ("stochastic", {"space": "q", "sigma": "diagonal", "components": 0}),
        ("stochastic", {"space": "h", "sigma": "both", "components": 0}),
        ("stochastic", {"space": "h", "sigma": "diagonal", "components": -1}),
        ("stochastic", {"space": "h", "sigma": "diagonal", "components": "3"}),
        ("reference", {"features": [np.nan] * 4}), ("reference", {"features": "abcd"}), ("reference", []),
    ],
)  # fmt: skip
def test_a_card_that_no_network_can_have_is_refused(written, key, value):
    path, _ = written
    rewrite(path, lambda _, metadata: metadata.update({key: value}))
    said = "size" if key == "feature_dim" else key  # a rule of several numbers
    with pytest.raises(InputError, match=f"model.safetensors: the model's {said} cannot be "):
        load_model(path)


def test_the_reference_image_is_for_ever_the_same():
    """SplitMix64 from state 0, as in the public-domain reference implementation."""
    first = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    expected = [((bits >> 11) / 2**53 - 0.5) * 12**0.5 for bits in first]
    assert numbers(3, 0).tolist() == pytest.approx(expected, rel=1e-15)
    many = numbers(100_000, 1)
    assert abs(many.mean()) < 0.02 and abs(many.std() - 1) < 0.01


def test_the_reference_of_a_large_network_takes_little_time():
    with torch.random.fork_rng(devices=[]):
        model = Model(build_backbone("resnet18", channels=3))
    card = model_card(arch="resnet18", channels=3, size=32, feature_dim=512)
    before = time.process_time()
    reference_answer(model, card)
    assert time.process_time() - before < 5  # about 0.15 s
    assert model.dtype == torch.float32


def test_a_model_of_another_profile_is_told_by_size_channels_name_and_classes():
    model = model_card()
    fits = {"name": "digits", "size": 8, "channels": 1, "classes": model.classes}
    check_fits(model, fits, "m")
    for change in ({"size": 16}, {"channels": 3}, {"classes": ["a"]}, {"name": "cifar10"}):
        with pytest.raises(
            InputError, match=r"^m: the model was made for 'digits' \(8x8.*run the stage `pretrain`"
        ):
            check_fits(model, {**fits, **change}, "m")
    with pytest.raises(InputError, match="stage `leaveout`"):
        check_fits(model.replace(objective="leaveout"), {**fits, "size": 9}, "m")


def test_an_ood_set_needs_the_same_size_and_channels_only():
    model = model_card()
    other = {"name": "letters", "size": 8, "channels": 1, "classes": ["A"]}
    check_fits(model, other, "m", id_set=False)
    with pytest.raises(InputError, match="'letters' \\(32x32"):
        check_fits(model, {**other, "size": 32}, "m", id_set=False)
