import pytest
import torch

from sslood.core.errors import InputError
from sslood.core.files import load_tensors, save_tensors
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import check_fits, load_model, save_model
from sslood.nets.networks.heads import build_head, build_projector
from tests.kit.small import model_metadata, write_encoder


@pytest.fixture
def written(tmp_path):
    """A model file with head and projector, and its modules."""
    with seeded(3):
        backbone = build_backbone("resnet-8-4", channels=1)
        modules = {"backbone": backbone, "head": build_head(16, 3), "projector": build_projector(16, [8, 4])}
        backbone(torch.randn(4, 1, 8, 8))  # moves the running statistics
    path = tmp_path / "model.safetensors"
    save_model(path, modules, model_metadata(head_classes=[0, 2, 5], projector=[8, 4]))
    return path, modules


def test_a_model_comes_back_as_it_was(written):
    path, modules = written
    before = torch.get_rng_state()
    model, metadata = load_model(path)
    assert torch.equal(before, torch.get_rng_state())
    assert not model.training and metadata["head_classes"] == [0, 2, 5]
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
    tensors, metadata = load_tensors(path)
    tensors = {name: array.copy() for name, array in tensors.items()}
    change(tensors)
    save_tensors(
        path,
        tensors,
        kind="model",
        metadata={k: v for k, v in metadata.items() if k not in ("kind", "format")},
    )
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
    with pytest.raises(ValueError, match="arch"):
        save_model(path, {}, {"name": "x"})
    save_tensors(path, {}, kind="model", metadata={"name": "x"})
    with pytest.raises(InputError, match="metadata lacks arch"):
        load_model(path)


def test_a_model_of_another_profile_is_told_by_size_channels_name_and_classes():
    model = model_metadata()
    fits = {"name": "digits", "size": 8, "channels": 1, "classes": model["classes"]}
    check_fits(model, fits, "m")
    for change in ({"size": 16}, {"channels": 3}, {"classes": ["a"]}, {"name": "cifar10"}):
        with pytest.raises(
            InputError, match=r"^m: the model was made for 'digits' \(8x8.*run the stage `pretrain`"
        ):
            check_fits(model, {**fits, **change}, "m")
    with pytest.raises(InputError, match="stage `leaveout`"):
        check_fits({**model, "objective": "leaveout"}, {**fits, "size": 9}, "m")


def test_an_ood_set_needs_the_same_size_and_channels_only():
    model = model_metadata()
    other = {"name": "letters", "size": 8, "channels": 1, "classes": ["A"]}
    check_fits(model, other, "m", id_set=False)
    with pytest.raises(InputError, match="'letters' \\(32x32"):
        check_fits(model, {**other, "size": 32}, "m", id_set=False)
