"""Training against outliers from adopted weights: small networks in publishers' layouts, both stages."""

import hashlib

import numpy as np
import pytest
import torch
import yaml
from scipy.special import logsumexp

from sslood.core.files import load_json, load_tensors
from sslood.nets.methods.energy import untrained_margins
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import load_model
from sslood.nets.networks.heads import build_head
from stages.adopt import main as adopt
from stages.energy import main
from tests.kit.small import call
from tests.nets.adopting.test_layouts import WRAPPED
from tests.nets.methods.test_energy import constants, run

assert run  # the fixture
MEAN, STD = 0.25, 0.5
ENCODERS = ("byol", "barlow_twins_checkpoint", "dino_checkpoint", "torchvision_encoder")


def network():
    """Return (backbone, its weights) as a publisher has them."""
    with seeded(5):
        backbone = build_backbone("resnet-8-4", channels=1)
    return backbone.eval(), backbone.state_dict()


def adopted(run, checkpoint, layout, **values):
    """Adopt a checkpoint; return the options of a training of its head, or of a new one."""
    folder = run["out"].parent
    torch.save(checkpoint, folder / "net.pth")
    entry = {
        "weights": str(folder / "net.pth"), "architecture": "resnet-8-4", "layout": layout, "size": 8,
        "sha256": hashlib.sha256((folder / "net.pth").read_bytes()).hexdigest(), "saw_validation": False,
        "channels": 1, "mean": [MEAN], "std": [STD], "classes": [], **values,
    }  # fmt: skip
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": {"net": entry}}))
    where = {"entry": f"{folder}/models.yaml:models.net", "id_set": run["id_set"]}
    assert call(adopt, name="net", seed=0, out=folder / "net-0.safetensors", **where) == 0
    return {**run, "init_model": folder / "net-0.safetensors", "name": "energy_head_net", "mode": "head"}


@pytest.mark.parametrize("layout", ENCODERS)
def test_an_adopted_encoder_gets_a_new_head_and_keeps_its_weights(run, layout):
    _, weights = network()
    start = adopted(run, WRAPPED[layout](weights), layout, min_knn=0.2)
    assert call(main, **{**start, "epochs": 1}) == 0
    model, card = load_model(run["out"])
    assert (card.mean, card.std, card.settings["init"]) == ([MEAN], [STD], "net")
    assert (card.settings["m_in"], card.settings["m_out"]) == pytest.approx(untrained_margins(8))
    assert all(torch.equal(model.backbone.state_dict()[name], value) for name, value in weights.items())
    assert call(main, **{**start, "mode": "full", "epochs": 1}) == 0
    assert not torch.equal(
        load_model(run["out"])[0].backbone.state_dict()["conv1.weight"], weights["conv1.weight"]
    )


def test_an_adopted_classifier_starts_with_the_publishers_head_and_normalisation(run, tmp_path):
    """The energies before training are those of the publisher's network, computed by hand."""
    backbone, weights = network()
    with seeded(6):
        head = build_head(16, 8)
    head = {f"fc.{name}": 5 * value for name, value in head.state_dict().items()}
    named = {"classes": [str(label) for label in range(8)], "min_accuracy": 0.01}
    start = adopted(run, weights | head, "torchvision", **named)
    assert call(main, **{**start, "constants": constants(tmp_path, loss="oe"), "epochs": 1}) == 0
    tensors = load_tensors(run["id_set"])[0]
    images = (torch.from_numpy(tensors["validation.images"]).float() / 255 - MEAN) / STD
    with torch.no_grad():
        logits = backbone(images) @ head["fc.weight"].T + head["fc.bias"]
    energies = -logsumexp(logits.double().numpy(), axis=1)
    before = load_json(run["out_energies"])["before"]["validation"]
    assert before["mean"] == pytest.approx(energies.mean(), rel=1e-4)
    assert before["quantiles"] == pytest.approx(
        np.quantile(energies, [0.05, 0.25, 0.5, 0.75, 0.95]), rel=1e-4
    )
