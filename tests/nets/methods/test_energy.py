import json
import math

import numpy as np
import pytest
import torch
from pytorch_ood.loss import EnergyRegularizedLoss
from scipy.special import log_softmax, logsumexp

from sslood.core.files import load_tensors, read_metadata, save_json
from sslood.nets.methods.energy import auto_margins, energy, untrained_margins
from sslood.nets.methods.outliers import energy_objective
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import save_model
from sslood.nets.networks.heads import build_head
from stages.energy import main
from stages.train import main as train
from tests.kit.small import call, model_card, write_encoder, write_params, write_sets
from tests.kit.training import SHARED
from tests.nets.methods.test_classify import SECTION as CLASSIFIER

SECTION = {
    **SHARED, "epochs": 3, "batch_size": 50, "auxiliary_batch_size": 100, "lr": 0.01, "final_lr": 1e-6,
    "schedule": "cosine", "nesterov": True, "weight_decay": 5e-4, "weight": 0.1, "batch_norm": "frozen",
    "select": "last", "margins": "auto", "gap": 0.0, "m_in": -23.0, "m_out": -5.0,
}  # fmt: skip


def constants(folder, **section):
    """Write an entry of `outliers`; return its FILE:KEY."""
    (folder / "outliers.yaml").write_text(json.dumps({"outliers": {"x": section}}))
    return f"{folder}/outliers.yaml:outliers.x"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLOOD_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("SSLOOD_THREADS", "1")
    sets = write_sets(tmp_path)
    save_json(tmp_path / "left_out.json", {"corruptions": {"n": 150, "left_out": 0, "positions": []}})
    return {
        "seed": 0,
        "id_set": sets["digits"],
        "auxiliary_set": sets["corruptions"],
        "tuning_set": sets["corruptions"],
        "left_out": tmp_path / "left_out.json",
        "constants": constants(tmp_path, loss="energy"),
        "init_model": write_encoder(tmp_path / "scratch-0.safetensors"),
        "name": "energy_full_scratch",
        "mode": "full",
        "recipe": f"{write_params(tmp_path / 'params.yaml')}:augment.classifier",
        "out": tmp_path / "out.safetensors",
        "out_curves": tmp_path / "curves.csv",
        "out_energies": tmp_path / "energies.json",
        **SECTION,
    }


def write_classifier(path):
    with seeded(0):
        modules = {"backbone": build_backbone("resnet-8-4", channels=1), "head": build_head(16, 8)}
    save_model(path, modules, model_card(name="classifier_scratch", head_classes=list(range(8))))


@pytest.mark.parametrize(("init", "seed"), [("simclr", 0), ("scratch", 1)])
def test_a_start_that_another_model_was_copied_over_is_refused(run, init, seed, capsys):
    assert call(main, **{**run, "init": init, "seed": seed}) == 1
    said = f"scratch-0.safetensors: holds the model 'scratch' of seed 0, not {init!r} of seed {seed}; write"
    assert said in capsys.readouterr().err and not run["out"].exists()


def logits(scale=10.0):
    return scale * torch.randn(24, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_energy_is_minus_logsumexp_and_does_not_overflow():
    x = logits(1000.0)
    np.testing.assert_allclose(energy(x), -logsumexp(x.numpy(), axis=1), rtol=1e-12)


@pytest.mark.parametrize(("m_in", "m_out"), [(-23.0, -5.0), (-12.0, -9.0)])
def test_objective_equals_pytorch_oods_with_gradients(m_in, m_out):
    labels = torch.arange(10) % 6
    ours, theirs = (logits().requires_grad_() for _ in range(2))
    loss, terms = energy_objective(ours, labels, weight=0.1, m_in=m_in, m_out=m_out)
    targets = torch.cat((labels, torch.full((14,), -1)))
    reference = EnergyRegularizedLoss(alpha=0.1, margin_in=m_in, margin_out=m_out)(theirs, targets)
    assert loss.item() == pytest.approx(reference.item(), rel=1e-12)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-14)
    assert terms["energy_id"].item() == pytest.approx(-logsumexp(logits().numpy()[:10], axis=1).mean())


def test_auto_margins_follow_the_energies_and_their_scale():
    rng = np.random.default_rng(0)
    inside, outside = torch.tensor(rng.normal(-10, 1, 5001)), torch.tensor(rng.normal(-4, 1, 4001))
    m_in, m_out = auto_margins(inside, outside)
    assert m_in == pytest.approx(np.median(inside), rel=1e-12)
    assert m_out == pytest.approx(np.median(outside), rel=1e-12)
    overlapping = auto_margins(inside, inside)
    assert overlapping[1] == pytest.approx(np.quantile(inside, 0.95), rel=1e-12)
    scaled = auto_margins(3 * inside - 1, 3 * outside - 1)
    assert scaled == pytest.approx((3 * m_in - 1, 3 * m_out - 1))


def test_untrained_margins_are_the_energies_they_claim():
    m_in, m_out = untrained_margins(8)
    assert m_out == pytest.approx(-logsumexp(np.zeros(8)))
    x = np.zeros(8)
    x[0] = math.log(0.99 / 0.01 * 7)
    assert math.exp(log_softmax(x)[0]) == pytest.approx(0.99)
    assert m_in == pytest.approx(-logsumexp(x))


def test_full_mode_parts_the_energies_of_a_trained_classifier(run, capsys):
    start = run["init_model"].parent / "classifier-0.safetensors"
    shared = {key: run[key] for key in ("seed", "id_set", "init_model", "recipe", "out_curves")}
    assert call(train, **shared, **{**CLASSIFIER, "epochs": 6}, name="classifier_scratch", out=start) == 0
    before = float(run["out_curves"].read_text().splitlines()[-1].rsplit(",", 1)[1])
    assert call(main, **{**run, "init_model": start, "epochs": 6}) == 0
    assert ", m_in -" in capsys.readouterr().out
    names, *rows = (line.split(",") for line in run["out_curves"].read_text().splitlines())
    first, last = (dict(zip(names, map(float, row), strict=True)) for row in (rows[0], rows[-1]))
    settings = read_metadata(run["out"], kind="model")["settings"]
    assert settings["tried"][0]["kept"]["validation_accuracy"] == pytest.approx(last["validation_accuracy"])
    start_gap = settings["start_mean_energy"]["auxiliary"] - settings["start_mean_energy"]["id"]
    assert last["energy_auxiliary"] - last["energy_id"] > start_gap + 0.1
    assert last["margin_loss"] < first["margin_loss"]
    # what fine-tuning must not cost: the accuracy that the classifier had (chance is 0.125)
    assert before > 0.8 and last["validation_accuracy"] >= before - 0.03


def test_an_encoder_gets_a_fresh_head_and_the_margins_of_one(run):
    assert call(main, **{**run, "epochs": 1}) == 0
    metadata = read_metadata(run["out"], kind="model")
    settings = metadata["settings"]
    assert (settings["m_in"], settings["m_out"]) == pytest.approx(untrained_margins(8))
    assert settings["mode"] == "full" and settings["init"] == "scratch"
    assert metadata["objective"] == "energy" and metadata["head_classes"] == list(range(8))


def test_head_mode_leaves_the_backbone_to_the_last_bit(run):
    assert call(main, **{**run, "mode": "head"}) == 0
    before, after = load_tensors(run["init_model"])[0], load_tensors(run["out"])[0]
    assert all((after[name] == before[name]).all() for name in before)


def test_full_mode_keeps_the_batch_norm_statistics_and_moves_the_weights(run):
    assert call(main, **run) == 0
    before, after = load_tensors(run["init_model"])[0], load_tensors(run["out"])[0]
    for name in before:
        same = (after[name] == before[name]).all()
        assert same == any(part in name for part in ("running", "tracked")), name


def test_a_classifiers_head_is_the_start_and_margins_are_measured(run):
    write_classifier(run["init_model"])
    assert call(main, **{**run, "lr": 1e-9, "final_lr": 1e-9}) == 0
    before, after = load_tensors(run["init_model"])[0], load_tensors(run["out"])[0]
    np.testing.assert_allclose(after["head.weight"], before["head.weight"], atol=1e-5)
    settings = read_metadata(run["out"])["settings"]
    assert settings["m_in"] < settings["m_out"] and settings["m_in"] != pytest.approx(untrained_margins(8)[0])
    measured = [settings["m_in"], settings["m_out"], *settings["start_mean_energy"].values()]
    assert measured == [float(f"{value:.6g}") for value in measured]  # the rest is noise


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margins": "fixed", "m_in": -3.0}, "use m_in below m_out"),
        ({"auxiliary_set": "nowhere.safetensors"}, "nowhere.safetensors: no such file"),
        ({"weight": -1.0}, "energy.weight must be at least 0, found -1.0"),
    ],
)
def test_wrong_input_ends_with_one_sentence(run, change, message, capsys):
    assert call(main, **{**run, **change}) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_set_without_auxiliaries_is_refused(run, capsys):
    run["auxiliary_set"] = run["id_set"].parent / "heldout.safetensors"
    assert call(main, **run) == 1
    assert "no tensor 'train.labels'" in capsys.readouterr().err


def test_margins_move_apart_by_their_own_distance():
    inside, outside = torch.linspace(-12, -8, 101), torch.linspace(-4, 0, 101)
    assert auto_margins(inside, outside) == pytest.approx((-10, -2))
    assert auto_margins(inside, outside, gap=0.25) == pytest.approx((-12, 0))
    assert auto_margins(inside, outside, gap=-0.25) == pytest.approx((-8, -4))
