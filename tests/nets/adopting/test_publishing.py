"""The way back of the layouts: what a publisher would write, compared with checkpoints made by hand."""

import hashlib

import pytest
import torch
import yaml

from sslood.core.errors import InputError
from sslood.nets.adopting.layouts import Layout, load_layouts, weights_of
from sslood.nets.adopting.publishing import checkpoint_of
from sslood.nets.adopting.weights import read_checkpoint
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.files import load_model, save_model
from sslood.nets.networks.heads import build_head
from tests.nets.adopting.test_layouts import WRAPPED, plain  # noqa: F401  a fixture
from tools import publish


def flat(content, above=""):
    """Return {dotted place: tensor} of a checkpoint."""
    found = {}
    for key, value in content.items():
        if isinstance(value, dict):
            found |= flat(value, f"{above}{key}/")
        elif isinstance(value, torch.Tensor):
            found[above + key] = value
    return found


@pytest.mark.parametrize("name", WRAPPED)
def test_the_weights_stand_where_the_publisher_puts_them(plain, name):  # noqa: F811
    written = flat(checkpoint_of(plain, load_layouts()[name], name))
    by_hand = flat(WRAPPED[name](plain))
    assert len(written) == len(plain)
    assert all(by_hand[place] is value for place, value in written.items())


def test_a_classifier_lies_beside_the_encoder():
    """As in SupContrast's SupCEResNet: DataParallel around encoder and fc."""
    weights = {"conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(2), "fc.bias": torch.zeros(2)}
    made = checkpoint_of(weights, load_layouts()["supce"], "x")
    assert list(made["model"]) == ["module.encoder.conv1.weight", "module.fc.weight", "module.fc.bias"]


def test_efficientnets_names_come_back():
    with seeded(0):
        weights = build_backbone("efficientnet_lite-0", channels=3).state_dict()
    layout = load_layouts()["efficientnet_lite"]
    made = checkpoint_of(weights, layout, "x")
    assert {"_conv_stem.weight", "_blocks.0._depthwise_conv.weight", "_bn1.weight"} <= made.keys()
    assert weights_of(made, layout, "x").keys() == weights.keys()


def test_what_cannot_be_turned_round_is_refused():
    weights = {"layer.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"m: rename rule '\(a\|b\) -> c' cannot be turned round"):
        checkpoint_of(weights, Layout("", rename=("(a|b) -> c",)), "m")
    with pytest.raises(InputError, match="m: this layout does not read 'layer.weight' back"):
        checkpoint_of(weights, Layout("", drop=("layer.",)), "m")


@pytest.fixture
def model_file(tmp_path):
    with seeded(3):
        network, head = build_backbone("resnet-8-4", channels=1), build_head(16, 3)
    card = ModelCard(
        name="net", arch="resnet-8-4", objective="classifier", seed=0, id="s", size=8, channels=1,
        mean=[0.5], std=[0.25], resize="none", classes=["a", "b", "c"], feature_dim=16,
        head_classes=[0, 1, 2],
    )  # fmt: skip
    save_model(tmp_path / "net.safetensors", {"backbone": network, "head": head}, card)
    return tmp_path / "net.safetensors"


@pytest.mark.parametrize(("layout", "floor"), [("byol", "min_knn"), ("akamaster", "min_accuracy")])
def test_the_command_writes_the_file_and_its_entry(model_file, tmp_path, capsys, layout, floor):
    out = tmp_path / "deep/net.pth.tar"
    with pytest.raises(SystemExit) as ended:
        publish.main.main(["--model", str(model_file), "--layout", layout, "--out", str(out)])
    assert ended.value.code == 0
    entry = yaml.safe_load(capsys.readouterr().out)["net"]
    assert entry["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest() and floor in entry
    assert (entry["architecture"], entry["layout"], entry["size"]) == ("resnet-8-4", layout, 8)
    found = weights_of(read_checkpoint(out), load_layouts()[layout], "x")
    kept, _ = load_model(model_file)
    assert all(torch.equal(found[name], value) for name, value in kept.backbone.state_dict().items())
    assert ("linear.weight" in found) == (layout == "akamaster")


def test_an_encoder_has_no_classifier_to_write(model_file, tmp_path, capsys):
    kept, card = load_model(model_file)
    save_model(model_file, {"backbone": kept.backbone}, card.replace(head_classes=None))
    with pytest.raises(SystemExit):
        publish.main.main(
            ["--model", str(model_file), "--layout", "akamaster", "--out", str(tmp_path / "x.th")]
        )
    assert "has no classifier, which this layout holds" in capsys.readouterr().err
    assert not (tmp_path / "x.th").exists()
