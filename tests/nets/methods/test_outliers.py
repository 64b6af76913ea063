"""Training against outliers: losses against pytorch-ood, batch norm, what is chosen, what is left out."""

import csv

import numpy as np
import pytest
import torch
from pytorch_ood.loss import BackgroundClassLoss, OutlierExposureLoss
from scipy.special import expit, logsumexp, softmax
from sklearn.metrics import roc_auc_score
from torch import nn

from sslood.core.files import load_json, load_tensors, read_metadata, save_json, save_tensors
from sslood.core.machine import machine
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.energy import energy, untrained_margins
from sslood.nets.methods.outlier_energies import before_and_after, unreached
from sslood.nets.methods.outliers import (
    Outliers,
    OutlierSettings,
    background_objective,
    exposure_objective,
    kept_statistics,
    outlier_score,
)
from sslood.nets.methods.supervised import separation
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.training.schedules import learning_rate
from stages.energy import main
from tests.kit.small import call
from tests.nets.methods.test_energy import SECTION, constants, logits, run, write_classifier

assert run  # the fixture
LABELS = torch.arange(10) % 6


def with_gradient(count=2):
    return [logits(3.0).requires_grad_() for _ in range(count)]


def test_outlier_exposure_equals_pytorch_oods_with_gradients():
    """Theirs is float32 and a mean over both parts together, so its terms are averaged apart here."""
    ours, theirs = with_gradient()
    loss, terms = exposure_objective(ours, LABELS, weight=0.5)
    targets = torch.cat((LABELS, torch.full((14,), -1)))
    each = OutlierExposureLoss(alpha=0.5, reduction="none")(theirs.float(), targets)
    reference = each[:10].mean() + each[10:].mean()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-6)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)
    assert terms["energy_id"].item() == pytest.approx(-logsumexp(ours.detach().numpy()[:10], axis=1).mean())


def test_outlier_exposure_is_least_for_equal_logits():
    """ln K, the cross-entropy of the uniform distribution from itself."""
    flat = torch.full((4, 6), 2.5, dtype=torch.float64)
    found = exposure_objective(torch.cat((flat, flat)), LABELS[:4], weight=1.0)[1]["uniform"]
    assert found.item() == pytest.approx(np.log(6))
    assert exposure_objective(logits(), LABELS, weight=1.0)[1]["uniform"].item() > np.log(6)


def test_background_equals_pytorch_oods_with_a_last_logit_of_zero():
    """Theirs is a mean over all images: ours with the weight M / N, times N / (N + M)."""
    ours, theirs = with_gradient()
    loss, _ = background_objective(ours, LABELS, weight=14 / 10)
    targets = torch.cat((LABELS, torch.full((14,), -1)))
    padded = torch.cat((theirs, torch.zeros(24, 1, dtype=torch.float64)), 1)
    reference = BackgroundClassLoss(n_classes=6)(padded, targets) * 24 / 10
    assert loss.item() == pytest.approx(reference.item(), rel=1e-12)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-14)


def test_the_energy_is_the_logit_of_the_background():
    x = logits(3.0)
    padded = np.concatenate((x.numpy(), np.zeros((24, 1))), axis=1)
    np.testing.assert_allclose(expit(energy(x).numpy()), softmax(padded, axis=1)[:, -1], rtol=1e-10)


def test_separation_is_scikit_learns_auroc_and_the_share_of_pairs():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0, 1, 80).round(1), rng.normal(1, 1, 60).round(1)  # with ties
    correct = rng.random(80) < 0.7
    found = separation(torch.tensor(inside), torch.tensor(outside), torch.tensor(correct))
    truth, scores = np.repeat([0, 1], [80, 60]), np.concatenate((inside, outside))
    assert found["validation_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    won = (outside[None] > inside[:, None]) + 0.5 * (outside[None] == inside[:, None])
    assert found["validation_oscr"] == pytest.approx((won * correct[:, None]).mean(), abs=1e-12)
    broken = separation(torch.tensor([0.0, np.nan]), torch.tensor(outside), torch.tensor([True, True]))
    assert np.isnan(list(broken.values())).all()


def curves(path):
    with open(path) as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_the_score_of_outlier_exposure_tells_sure_images_apart():
    logits = torch.tensor([[25.0, 0], [26, 0], [0, 24], [18, 0], [17.5, 0], [0, 19], [0.5, 0.5], [-3, 4]])
    found = outlier_score(logits, "oe")
    np.testing.assert_allclose(found.exp(), 1 - softmax(logits.numpy().astype(float), 1).max(1), atol=1e-15)
    sure = -np.abs(np.diff(logits[:6].numpy().astype(float), axis=1))[:, 0]
    np.testing.assert_allclose(found[:6], sure - np.log1p(np.exp(sure)), rtol=1e-12)
    assert separation(found[:3], found[3:6], torch.ones(3))["validation_auroc"] == 1.0


def test_each_loss_parts_outliers_from_a_classifier_and_keeps_its_accuracy(run, tmp_path):
    """One start, half of its epochs: what a loss asks for falls."""
    write_classifier(run["init_model"])
    for loss, term in (("oe", "uniform"), ("background", "background")):
        run["constants"] = constants(tmp_path, loss=loss, weight=1.0, epochs=3, lr=0.05)
        assert call(main, **run) == 0
        rows = curves(run["out_curves"])
        assert rows[-1][term] < rows[0][term] and rows[-1]["loss"] < rows[0]["loss"], loss
        assert rows[-1]["validation_oscr"] > rows[0]["validation_oscr"]
        settings = read_metadata(run["out"], kind="model")["settings"]
        assert settings["loss"] == loss and not {"m_in_used", "start_mean_energy"} & settings.keys()
        assert settings["auxiliary"] == {"n": 150, "left_out": 0}


def small_resnet():
    with seeded(0):
        return build_backbone("resnet-8-4", channels=1).train()


def test_separate_batch_norm_keeps_the_statistics_of_id_batches_alone():
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    once, twice = small_resnet(), small_resnet()
    own, alone = once(images), twice(images)
    with kept_statistics(twice):
        others = twice(5 * images)
    torch.testing.assert_close(own, alone, rtol=0, atol=0)
    for name, value in once.state_dict().items():
        assert "tracked" in name or torch.equal(value, twice.state_dict()[name]), name
    small_resnet().eval()
    assert not torch.allclose(others, twice.eval()(5 * images))  # normalised by their own batch
    assert {layer.momentum for layer in twice.modules() if hasattr(layer, "momentum")} == {0.1}


@pytest.mark.parametrize(("batch_norm", "mode"), [("joint", "full"), ("separate", "full"), ("joint", "head")])
def test_batch_norm_of_training_batches_moves_its_statistics_unless_frozen(run, tmp_path, batch_norm, mode):
    run["constants"] = constants(tmp_path, loss="oe", batch_norm=batch_norm, epochs=1, batch_size=300)
    assert call(main, **{**run, "mode": mode}) == 0
    before, after = load_tensors(run["init_model"])[0], load_tensors(run["out"])[0]
    moved = [bool((before[name] != after[name]).any()) for name in before if "running" in name]
    assert all(moved) == any(moved) == (mode == "full")


def test_the_best_epoch_and_candidate_are_kept(run, tmp_path):
    """A run of its own with the chosen values and as many epochs has the same weights."""
    candidates = {"weight": [0.0, 1.0], "lr": [0.05]}
    how = {"loss": "oe", "schedule": "constant", "select": "validation", "batch_size": 200}
    run["constants"] = constants(tmp_path, **how, epochs=3, candidates=candidates)
    assert call(main, **run) == 0
    settings, weights = read_metadata(run["out"], kind="model")["settings"], load_tensors(run["out"])[0]
    tried = settings["tried"]
    assert [(one["weight"], one["lr"]) for one in tried] == [(0.0, 0.05), (1.0, 0.05)]
    best = max(tried, key=lambda one: one["kept"]["validation_oscr"])
    assert (settings["weight"], settings["lr"]) == (best["weight"], best["lr"])
    assert all(one["kept"]["validation_oscr"] >= one["last"]["validation_oscr"] for one in tried)
    rows = curves(run["out_curves"])
    place = int(np.argmax([row["validation_oscr"] for row in rows]))
    assert best["kept"]["epoch"] == place + 1 and best["last"]["epoch"] == 3
    shown = load_json(run["out_energies"])
    assert shown["tried"] == tried and tried[shown["best"]] == best
    for name, row in (("kept", rows[place]), ("last", rows[-1])):
        for key in ("validation_accuracy", "validation_auroc", "validation_oscr"):
            assert best[name][key] == pytest.approx(row[key], rel=1e-5)
    own = {
        "loss": "oe",
        "schedule": "constant",
        "batch_size": 200,
        "weight": best["weight"],
        "lr": best["lr"],
    }
    run["constants"] = constants(tmp_path, **own, epochs=place + 1)
    assert call(main, **run) == 0
    again = load_tensors(run["out"])[0]
    assert all(np.array_equal(weights[name], again[name]) for name in weights)


def test_candidates_without_a_choice_of_epochs_are_shown_too(run, tmp_path):
    how = {"loss": "oe", "epochs": 1, "batch_size": 300, "candidates": {"epochs": [1, 2]}}
    run["constants"] = constants(tmp_path, **how)
    assert call(main, **run) == 0
    shown = load_json(run["out_energies"])
    assert [(one["epochs"], one["kept"]["epoch"]) for one in shown["tried"]] == [(1, 1), (2, 2)]
    assert all(one["kept"] == one["last"] for one in shown["tried"])
    assert len(curves(run["out_curves"])) == shown["tried"][shown["best"]]["epochs"]


def test_outliers_that_are_none_are_not_trained_on(run, tmp_path, capsys):
    """Poisoned pixels of what the audit lists change nothing; how many these are is said."""
    run["constants"] = constants(tmp_path, loss="oe", epochs=1)
    left_out = {"n": 150, "left_out": 100, "positions": list(range(50, 150))}
    save_json(run["left_out"], {"corruptions": left_out})
    assert call(main, **run) == 0
    clean, settings = load_tensors(run["out"])[0], read_metadata(run["out"])["settings"]
    assert settings["auxiliary"] == {"n": 150, "left_out": 100} == load_json(run["out_energies"])["outliers"]
    said = "energy energy_full_scratch-0: leaves out 100 of 150 outliers, which are ID or test images"
    assert said in capsys.readouterr().out
    path = run["auxiliary_set"]
    tensors, metadata = load_tensors(path, kind="set")
    changed = {name: np.array(array) for name, array in tensors.items()}
    changed["train.images"][50:] = 255
    save_tensors(path, changed, kind="set", metadata=metadata)
    assert call(main, **run) == 0
    assert all(np.array_equal(clean[name], array) for name, array in load_tensors(run["out"])[0].items())


def test_energies_before_and_after_are_those_of_the_models(run, tmp_path, capsys):
    """And where nothing was chosen or left out, nothing is said of it."""
    write_classifier(run["init_model"])
    run["constants"] = constants(tmp_path, loss="oe", epochs=1)
    assert call(main, **run) == 0
    found = load_json(run["out_energies"])
    assert found.keys() == {"levels", "edges", "before", "after", "outliers"}
    assert "leaves out" not in capsys.readouterr().out
    assert found["before"].keys() == {"validation", "auxiliary", "tuning"} == found["after"].keys()
    assert found["before"]["validation"]["n"] == 100 == sum(found["before"]["validation"]["counts"])
    assert found["before"] != found["after"]


def test_means_quantiles_and_histograms_are_numpys():
    rng = np.random.default_rng(0)
    before, after = rng.normal(-8, 1, 500), rng.normal(-4, 2, 500)
    found = before_and_after({"x": torch.tensor(before)}, {"x": torch.tensor(after)})
    for time, values in (("before", before), ("after", after)):
        numbers = found[time]["x"]
        assert numbers["mean"] == pytest.approx(values.mean(), rel=1e-5)
        assert numbers["quantiles"] == pytest.approx(np.quantile(values, found["levels"]), rel=1e-5)
        inside = np.clip(values, found["edges"][0], found["edges"][-1])
        assert numbers["counts"] == np.histogram(inside, found["edges"])[0].tolist()


def test_margins_that_no_energy_comes_near_to_are_named_with_better_ones():
    after = {"validation": torch.full((5,), -9.0), "auxiliary": torch.full((5,), -6.0)}
    far = {"m_in": -23.0, "m_out": -5.0}
    said = unreached(far, after, (-10.0, -7.0))
    assert "of ID validation stays at -9, above m_in -23" in said and "of the outliers" not in said
    assert "m_in -10, m_out -7" in said
    assert "of the outliers stays at -6, below m_out 3" in unreached(
        {"m_in": -9, "m_out": 3}, after, (-10, -7)
    )
    assert (
        unreached({"m_in": -9.0, "m_out": -6.0}, after, (-10.0, -7.0)) == "" == unreached({}, after, (0, 1))
    )


def test_a_new_head_that_does_not_reach_its_margins_is_to_learn_more():
    """Its margins auto are no energies of the network, so they are not proposed in place of themselves."""
    after = {"validation": torch.full((5,), -2.5), "auxiliary": torch.full((5,), -2.4)}
    m_in, m_out = untrained_margins(8)
    theirs = {"m_in": m_in, "m_out": m_out, "margins": "auto"}
    said = unreached(theirs, after, (m_in, m_out), fresh_head=True)
    assert said == (
        "the median energy of ID validation stays at -2.5, above m_in -6.551; "
        "the head was new: train longer (epochs), at a higher rate (lr), or from a classifier"
    )
    fixed = unreached(
        {"m_in": -23.0, "m_out": -2.0, "margins": "fixed"}, after, (m_in, m_out), fresh_head=True
    )
    assert fixed.endswith(
        "from a classifier, or use the margins of a new head (margins: auto): m_in -6.551, m_out -2.079"
    )
    learned = {"validation": torch.full((5,), -6.4), "auxiliary": torch.full((5,), -2.4)}
    assert unreached(theirs, learned, (m_in, m_out), fresh_head=True) == ""


@pytest.mark.parametrize("mode", ["full", "head"])
def test_the_stage_says_that_a_raw_encoder_has_not_learned_enough(run, tmp_path, mode, capsys):
    assert call(main, **{**run, "mode": mode, "epochs": 1}) == 0
    said = capsys.readouterr().err
    assert "energy energy_full_scratch-0: the median energy of ID validation stays at" in said
    assert "the head was new: train longer" in said and "margins: auto" not in said
    run["constants"] = constants(tmp_path, loss="oe")
    assert call(main, **{**run, "mode": mode, "epochs": 1}) == 0
    assert "median energy" not in capsys.readouterr().err  # a loss without margins


@pytest.mark.parametrize("change", [{"margins": "fixed"}, {"gap": 9.0, "auxiliary_batch_size": 400}])
def test_the_stage_says_that_margins_are_out_of_reach(run, change, capsys):
    """And that a set holds fewer outliers than a batch asks for."""
    write_classifier(run["init_model"])
    assert call(main, **{**run, **change, "epochs": 1}) == 0
    said = capsys.readouterr()
    assert "energy energy_full_scratch-0: the median energy of ID validation stays at" in said.err
    few = "energy energy_full_scratch-0: a batch asks for 400 outliers, but there are only 150"
    assert (few in said.out) == ("gap" in change)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"loss": "oo"}, "outliers.x.loss: must be one of energy, oe, background"),
        ({}, "missing key"),
        ({"loss": "oe", "wieght": 1.0}, "unknown key"),
        ({"loss": "oe", "weight": -0.5}, "outliers.x.weight must be at least 0, found -0.5"),
        ({"loss": "oe", "candidates": {"weigth": [1.0]}}, "outliers.x.candidates: unknown key 'weigth'"),
        ({"loss": "oe", "candidates": {"weight": []}}, "outliers.x.candidates.weight: must be a list"),
        ({"loss": "oe", "candidates": [1.0]}, "outliers.x.candidates: must hold keys and lists"),
        (
            {"loss": "energy", "margins": "fixed", "candidates": {"m_in": [-9.0, -1.0]}},
            "use m_in below m_out",
        ),
    ],
)
def test_a_wrong_section_is_named(run, tmp_path, section, says, capsys):
    run["constants"] = constants(tmp_path, **section)
    assert call(main, **{**run, "epochs": 1}) == 1
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("left_out", "says"),
    [
        ({}, "knows no set 'corruptions' of 150 outliers; run `dvc repro audit`"),
        ({"n": 149, "positions": []}, "knows no set 'corruptions' of 150 outliers"),
        ({"n": 150, "positions": list(range(150))}, "all 150 outliers are ID or test images"),
    ],
)
def test_what_the_audit_must_say_of_outliers(run, left_out, says, capsys):
    save_json(run["left_out"], {"corruptions": left_out} if left_out else {})
    assert call(main, **run) == 1
    assert says in capsys.readouterr().err


def test_an_interrupted_choice_goes_on_with_the_same_bytes(run, tmp_path, monkeypatch):
    """The best epoch so far lies in the checkpoint, and a candidate that is done is not trained again."""
    how = {"loss": "oe", "select": "validation", "epochs": 2, "batch_size": 300}
    how |= {"candidates": {"weight": [0.5, 1.0]}}
    run["constants"] = constants(tmp_path, **how)
    whole = run | {"out": run["out"].with_name("whole.safetensors")}
    assert call(main, **whole) == 0
    seen = []

    def interrupted(*scores):
        seen.append(scores)
        if len(seen) == 4:  # the second epoch of the second candidate
            raise KeyboardInterrupt
        return separation(*scores)

    def counted(*scores):
        seen.append(scores)
        return separation(*scores)

    with monkeypatch.context() as patch:
        patch.setattr("sslood.nets.methods.outliers.separation", interrupted)
        assert call(main, **run) == 130 and not run["out"].exists()
    with monkeypatch.context() as patch:
        patch.setattr("sslood.nets.methods.outliers.separation", counted)
        assert call(main, **run) == 0
    assert len(seen) == 4 + 1
    assert run["out"].read_bytes() == whole["out"].read_bytes()
    assert not list((tmp_path / "scratch").glob("energy-*"))


@pytest.mark.parametrize(("loss", "weight"), [("oe", 0.5), ("background", 1.0)])
def test_a_loss_against_outliers_from_scratch(run, tmp_path, loss, weight):
    """An untrained encoder, its statistics those of its batches: it learns the classes and parts outliers."""
    how = {"loss": loss, "weight": weight, "batch_norm": "joint", "lr": 0.1, "final_lr": 0.0, "epochs": 6}
    run["constants"] = constants(tmp_path, **how)
    assert call(main, **run) == 0
    last = curves(run["out_curves"])[-1]
    assert last["validation_accuracy"] > 0.7 and last["validation_auroc"] > 0.7  # chance: 0.125 and 0.5


@pytest.mark.parametrize(("loss", "weight"), [("oe", 0.5), ("background", 1.0)])
def test_a_loss_against_outliers_on_the_head_of_an_untrained_encoder(run, tmp_path, loss, weight):
    """Random features tell the classes a little; the encoder stays as it is to the last bit."""
    how = {"loss": loss, "weight": weight, "lr": 0.1, "final_lr": 0.0, "epochs": 6}
    run["constants"] = constants(tmp_path, **how)
    assert call(main, **{**run, "mode": "head"}) == 0
    first, *_, last = curves(run["out_curves"])
    assert last["loss"] < first["loss"] and last["validation_accuracy"] > 0.2  # chance: 0.125
    before, after = load_tensors(run["init_model"])[0], load_tensors(run["out"])[0]
    assert after.keys() - before.keys() == {"head.weight", "head.bias"}
    assert all((after[name] == before[name]).all() for name in before)


@pytest.mark.parametrize("loss", ["energy", "oe", "background"])
def test_the_test_splits_are_never_read(run, tmp_path, loss):
    """Other pixels and labels there, of the ID set and of outliers: the same bytes, and the same choice."""
    write_classifier(run["init_model"])
    how = {"loss": loss, "select": "validation", "epochs": 2, "batch_size": 300}
    run["constants"] = constants(tmp_path, **how, candidates={"weight": [0.1, 1.0]})
    written = []
    for fill in (0, 255):
        for name in ("digits", "corruptions"):
            poison(run["out"].with_name(f"{name}.safetensors"), fill)
        assert call(main, **run) == 0
        written.append([run[name].read_bytes() for name in ("out", "out_curves", "out_energies")])
    assert written[0] == written[1]
    assert len(read_metadata(run["out"], kind="model")["settings"]["tried"]) == 2


def poison(path, fill):
    """Give a set file a test split of equal pixels and of one label, in place of the one it has, if any."""
    tensors, metadata = load_tensors(path, kind="set")
    del metadata["kind"]
    kept = {name: np.array(array) for name, array in tensors.items() if not name.startswith("test.")}
    images = np.full_like(kept["train.images"][:50], fill)
    test = {"test.images": images, "test.labels": np.full(50, fill % 8)}
    save_tensors(path, kept | test, kind="set", metadata=metadata)


def test_the_published_cosine_multiplies_the_base_rate_to_the_same_rates():
    """LambdaLR's factor from 1 to final / lr, times lr, is a cosine from lr to final."""
    lr, final, steps = 1e-3, 1e-6, 97
    for step in (0, 1, 40, 96):
        factor = final / lr + (1 - final / lr) * 0.5 * (1 + np.cos(step / steps * np.pi))
        found = learning_rate("cosine", step, steps, base=lr, warmup=0, final=final)
        assert found == pytest.approx(lr * factor, rel=1e-9)


@pytest.mark.parametrize("batch_norm", ["frozen", "joint"])
def test_frozen_statistics_leave_dropout_on(batch_norm):
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    sets = [ResidentSet(images, torch.arange(40) % 4, "cpu")] * 3
    with seeded(0):
        network = build_backbone("wideresnet-10-1-30", channels=1)
        model = Model(network, build_head(network.feature_dim, 4))
    settings = OutlierSettings(**{**SECTION, "batch_norm": batch_norm}, loss="oe")
    task = Outliers(
        model, *sets, images, mode="full", fresh_head=False, settings=settings, recipe=AugmentSettings(),
        preprocessing={"mean": [0.5], "std": [0.25]}, label="toy", seed=0, machine=machine("float32"),
    )  # fmt: skip
    task.begin_epoch(0)
    kinds = {kind: [m.training for m in model.modules() if isinstance(m, kind)]
             for kind in (nn.Dropout, nn.BatchNorm2d)}  # fmt: skip
    assert kinds[nn.Dropout] and all(kinds[nn.Dropout])
    assert set(kinds[nn.BatchNorm2d]) == {batch_norm == "joint"}


def test_the_advice_on_margins_names_those_that_auto_would_take(run, capsys, tmp_path):
    write_classifier(run["init_model"])
    assert call(main, **{**run, "epochs": 1, "lr": 1e-9, "final_lr": 1e-9}) == 0
    auto = read_metadata(run["out"], kind="model")["settings"]
    capsys.readouterr()
    fixed = {"margins": "fixed", "m_in": -60.0, "m_out": -1.0}
    assert call(main, **{**run, **fixed, "epochs": 1, "lr": 1e-9, "final_lr": 1e-9}) == 0
    said = capsys.readouterr().err
    assert f"(margins: auto, gap: 0): m_in {auto['m_in']:.4g}, m_out {auto['m_out']:.4g}" in said
