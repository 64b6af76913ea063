import shutil

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score

from sslood.core.errors import InputError, LeftOut
from sslood.core.files import load_tensors, read_metadata, save_tensors
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.leaveout import (
    entropies,
    entropy_margin,
    fold_classes,
    leaveout_objective,
    msp_auroc,
    split_classes,
)
from sslood.nets.networks.files import load_model
from sslood.nets.training.best import Best
from stages.leaveout import main
from tests.kit.small import call, write_params, write_sets
from tests.kit.training import SHARED

SECTION = {
    **SHARED, "epochs": 6, "batch_size": 50, "lr": 0.1, "schedule": "steps", "weight_decay": 5e-4,
    "beta": 0.2, "margin": 0.4, "margin_of": "batch", "select": "last", "folds": [0, 1, 2, 3], "seed": 0,
    "save_every": 2,
}  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLOOD_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("SSLOOD_THREADS", "1")
    return {
        "id_set": write_sets(tmp_path)["digits"],
        "backbone": "wideresnet",
        "sizes": f"{write_params(tmp_path / 'params.yaml')}:backbones.wideresnet",
        "loss": "margin",
        "fold": 1,
        "tuning_set": tmp_path / "corruptions.safetensors",
        "recipe": f"{tmp_path}/params.yaml:augment.classifier",
        "out": tmp_path / "1.safetensors",
        "out_curves": tmp_path / "curves.csv",
        **SECTION,
    }


def logits(seed, n=40, k=6):
    return 4 * torch.randn(n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_entropy_is_scipys_in_nats():
    x = logits(0)
    np.testing.assert_allclose(entropies(x), entropy(torch.softmax(x, 1).numpy(), axis=1), rtol=1e-12)
    np.testing.assert_allclose(entropies(torch.zeros(3, 8)), np.log(8), rtol=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.4, 2.0])
def test_margin_is_on_batch_means(margin):
    own, other = logits(0), logits(1) / 4
    gap = [entropy(torch.softmax(x, 1).numpy(), axis=1).mean() for x in (own, other)]
    assert entropy_margin(own, other, margin).item() == pytest.approx(max(0.0, margin + gap[0] - gap[1]))
    labels = torch.arange(40) % 6
    loss, terms = leaveout_objective(torch.cat((own, other)), labels, beta=0.2, margin=margin)
    cross = -torch.log_softmax(own, 1)[torch.arange(40), labels].mean()
    assert loss.item() == pytest.approx(cross.item() + 0.2 * terms["entropy_margin"].item())


@pytest.mark.parametrize("margin", [0.4, 2.0])
def test_margin_per_image_is_over_every_pair(margin):
    """Sure and unsure outliers make up for each other in batch means, but not pair by pair."""
    own, other = logits(0, 7), logits(1, 5)
    inside, outside = (entropy(torch.softmax(x, 1).numpy(), axis=1) for x in (own, other))
    expected = np.mean([max(0.0, margin + a - b) for a in inside for b in outside])
    assert entropy_margin(own, other, margin, "image").item() == pytest.approx(expected, rel=1e-12)
    mixed = torch.cat((9 * torch.eye(2, 6), torch.zeros(2, 6))).double()
    sure = 9 * torch.eye(4, 6).double()
    assert entropy_margin(sure, mixed, 0.4).item() == 0 < entropy_margin(sure, mixed, 0.4, "image").item()
    labels = torch.arange(7) % 6
    _, terms = leaveout_objective(torch.cat((own, other)), labels, beta=0.5, margin=margin, of="image")
    assert terms["entropy_margin"].item() == pytest.approx(expected, rel=1e-12)


def test_ten_classes_in_five_folds_of_seed_3_are_the_published_ones():
    """The pairs of the public code, NumPy's permutation(10) after seed(3): 5, 4, 1, 2, 9, 6, 7, 0, 3, 8."""
    left = [fold_classes(10, range(5), fold, 3)[1] for fold in range(5)]
    assert left == [[4, 5], [1, 2], [6, 9], [0, 7], [3, 8]]


@pytest.mark.parametrize(("classes", "folds"), [(8, 4), (10, 5), (10, 3), (100, 5)])
def test_every_class_is_left_out_exactly_once_in_near_equal_blocks(classes, folds):
    cuts = [fold_classes(classes, range(folds), fold, 0) for fold in range(folds)]
    assert sorted(c for _, left in cuts for c in left) == list(range(classes))
    assert all(sorted(kept + left) == list(range(classes)) for kept, left in cuts)
    sizes = [len(left) for _, left in cuts]
    assert max(sizes) - min(sizes) <= 1
    assert cuts == [fold_classes(classes, range(folds), fold, 0) for fold in range(folds)]
    assert cuts != [fold_classes(classes, range(folds), fold, 1) for fold in range(folds)]


@pytest.mark.parametrize(("folds", "fold"), [([0], 0), ([0, 1], 2), ([1, 2], 1)])
def test_impossible_folds_are_refused(folds, fold):
    with pytest.raises(InputError, match="folds are"):
        fold_classes(8, folds, fold, 0)


def test_split_relabels_the_kept_classes_in_order():
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    data = ResidentSet(images, torch.tensor([3, 0, 1, 3, 2, 0]), "cpu")
    inside, outside = split_classes(data, [1, 3])
    assert inside.images.flatten().tolist() == [0, 2, 3] and inside.labels.tolist() == [1, 0, 1]
    assert outside.images.flatten().tolist() == [1, 4, 5] and outside.labels.tolist() == [-1] * 3


def test_auroc_is_scikit_learns_ties_included():
    own, other = logits(0).round(), logits(1).round() / 2
    score = [torch.softmax(x, 1).amax(1).numpy() for x in (own, other)]
    # rounded, since the two ways to the same probability differ in the last digit
    expected = roc_auc_score([1] * 40 + [0] * 40, np.concatenate(score).round(12))
    assert msp_auroc(own, other) == pytest.approx(expected, abs=2e-3)
    assert msp_auroc(torch.zeros(3, 4), torch.zeros(5, 4)) == 0.5


def test_a_member_learns_its_classes_and_says_which(run, capsys):
    assert call(main, **run) == 0
    assert "6 classes kept" in capsys.readouterr().out
    model, card = load_model(run["out"])
    metadata = card.metadata()
    kept, left = fold_classes(8, range(4), 1, 0)
    assert metadata["head_classes"] == kept and metadata["settings"]["left_out"] == left
    assert metadata["name"] == "leaveout_wideresnet_1" and metadata["arch"] == "wideresnet-10-1"
    assert model.head.out_features == 6
    names, *rows = (line.split(",") for line in run["out_curves"].read_text().splitlines())
    last = dict(zip(names, map(float, rows[-1]), strict=True))
    assert last["validation_accuracy"] > 0.9 and last["validation_auroc"] > 0.8
    assert last["lr"] == pytest.approx(0.001)


@pytest.mark.parametrize(("dropout", "select"), [(0, "leftout"), (30, "last")])
def test_an_interrupted_run_goes_on_with_the_same_bytes(run, dropout, select, monkeypatch, tmp_path):
    """With dropout too: its draws belong to the epoch, not to the process. And with a best epoch before."""
    (tmp_path / "sizes.yaml").write_text(f"b: {{depth: 10, width: 1, dropout: {dropout}}}")
    run |= {"sizes": f"{tmp_path}/sizes.yaml:b", "epochs": 3, "select": select}
    whole = run | {"out": run["out"].with_name("whole.safetensors")}
    values = iter([0.9, 0.8, 0.7, 0.9, 0.8, None, 0.7])

    def measured(*logits):
        if (value := next(values)) is None:
            raise KeyboardInterrupt
        return value

    monkeypatch.setattr("sslood.nets.methods.leaveout.msp_auroc", measured)
    assert call(main, **whole) == 0
    assert call(main, **run) == 130 and not run["out"].exists()
    assert call(main, **run) == 0
    assert run["out"].read_bytes() == whole["out"].read_bytes()
    assert load_model(run["out"])[1].epochs == {"leftout": 1, "last": None}[select]


@pytest.mark.parametrize("loss", ["margin", "full"])
def test_the_best_epoch_is_kept_whole(run, loss, monkeypatch):
    """Its weights and buffers are those of a run that ends there, under a rate that does not know the end."""
    measured = 2 if loss == "margin" else 1  # the left-out classes too, but none are
    values = iter([value for value in (0.5, 0.9, 0.7, 0.1, 0.2) for _ in range(measured)])
    monkeypatch.setattr("sslood.nets.methods.leaveout.msp_auroc", lambda *logits: next(values))
    run |= {"loss": loss, "schedule": "constant", "select": "published", "epochs": 3}
    assert call(main, **run) == 0
    best, card = load_model(run["out"])
    assert card.epochs == 2 and card.settings["loss"] == loss
    assert call(main, **{**run, "select": "last", "epochs": 2}) == 0
    last, card = load_model(run["out"])
    assert card.epochs is None and len(card.head_classes) == (8 if loss == "full" else 6)
    for name, value in last.state_dict().items():
        assert torch.equal(value, best.state_dict()[name]), name


def test_best_keeps_the_latest_of_equals():
    layer = torch.nn.Linear(1, 1)
    best = Best(layer)
    for epoch, value in enumerate((0.5, 0.7, 0.7, 0.6)):
        torch.nn.init.constant_(layer.weight, epoch)
        best.offer(layer, value, epoch)
    again = Best(layer)
    again.load_state_dict(best.state_dict())
    assert (int(again.epoch), again.model.weight.item(), again.value.item()) == (2, 2.0, 0.7)


def test_the_published_rule_reads_the_tuning_set_and_no_other_rule_does(run, tmp_path, capsys):
    shutil.copy(tmp_path / "heldout.safetensors", run["tuning_set"])  # which holds a test split alone
    short = {**run, "epochs": 1}
    assert call(main, **short) == 0
    assert call(main, **{**short, "select": "published"}) == 1
    error = capsys.readouterr().err
    assert "leaveout.select: published needs validation images" in error and "role tuning" in error


@pytest.mark.parametrize("select", ["last", "leftout", "published"])
def test_the_test_split_is_never_read(run, tmp_path, monkeypatch, select):
    """Other pixels and labels there, of the tuning set too, change no weight or epoch; validation does."""

    def trained(name, poisoned):
        sets = {}
        for key in ("id_set", "tuning_set"):
            tensors, metadata = load_tensors(run[key], kind="set")
            tensors = {
                part: 255 - array if part == f"{poisoned}.images" else np.array(array)
                for part, array in tensors.items()
            }
            if poisoned == "test" and key == "id_set":
                tensors["test.labels"] = np.zeros_like(tensors["test.labels"])
            if poisoned == "test" and key == "tuning_set":
                tensors["test.images"] = tensors["validation.images"][::-1]
            sets[key] = tmp_path / name / f"{key}.safetensors"
            save_tensors(sets[key], tensors, kind="set", metadata=metadata)
        monkeypatch.setenv("SSLOOD_SCRATCH", str(tmp_path / name / "scratch"))  # nothing to go on from
        own = {**run, **sets, "epochs": 3, "select": select, "out": tmp_path / name / "member.safetensors"}
        assert call(main, **own) == 0
        tensors, card = load_tensors(own["out"], kind="model")
        return {key: np.array(array) for key, array in tensors.items()}, card, own["out_curves"].read_text()

    whole, card, curves = trained("whole", "")
    poisoned, same, again = trained("poisoned", "test")
    assert card["epochs"] == same["epochs"] and curves == again
    assert all(np.array_equal(poisoned[key], array) for key, array in whole.items())
    assert trained("control", "validation")[2] != curves


def test_a_fold_without_validation_images_is_left_out(run, tmp_path, capsys):
    tensors, metadata = load_tensors(run["id_set"], kind="set")
    tensors = {name: np.array(values) for name, values in tensors.items()}
    kept = np.isin(tensors["validation.labels"], fold_classes(8, range(4), 1, 0)[0])
    for name in ("validation.images", "validation.labels"):
        tensors[name] = tensors[name][kept]
    save_tensors(run["id_set"], tensors, kind="set", metadata=metadata)
    assert call(main, **{**run, "epochs": 1, "select": "leftout"}) == 0
    assert "no image of the classes that it leaves out" in capsys.readouterr().out
    assert call(main, **{**run, "epochs": 1}) == 0 and load_model(run["out"])


def test_two_runs_give_the_same_bytes_and_folds_differ(run):
    short = {**run, "epochs": 1}
    assert call(main, **short) == 0
    first = run["out"].read_bytes()
    assert call(main, **short) == 0
    assert run["out"].read_bytes() == first
    assert call(main, **{**short, "fold": 2}) == 0
    assert run["out"].read_bytes() != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "vgg"}, "unknown backbone 'vgg'; known: densenet, efficientnet_lite, fast"),
        ({"fold": 4}, "fold is 4"),
        ({"beta": -0.1}, "leaveout.beta must be at least 0, found -0.1"),
    ],
)
def test_wrong_options_end_with_one_sentence(run, change, message, capsys):
    assert call(main, **{**run, **change}) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_deep_ensemble_leaves_nothing_out_and_needs_no_classes_for_its_folds(run):
    with pytest.raises(LeftOut, match="needs 4 classes for 4 folds, there are 2"):
        fold_classes(2, range(4), 1, 0)
    tensors, metadata = load_tensors(run["id_set"])
    two = {split: np.flatnonzero(tensors[f"{split}.labels"] < 2) for split in ("train", "validation", "test")}
    cut = {key: values[two[key.split(".")[0]]] for key, values in tensors.items()}
    metadata = {**metadata, "classes": metadata["classes"][:2]}
    save_tensors(run["id_set"], cut, kind="set", metadata={k: v for k, v in metadata.items() if k != "kind"})
    assert call(main, **{**run, "loss": "full", "epochs": 1}) == 0
    assert read_metadata(run["out"])["head_classes"] == [0, 1]
