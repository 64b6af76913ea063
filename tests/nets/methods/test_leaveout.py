import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score

from sslood.core.errors import InputError
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.leaveout import (
    entropy_margin,
    fold_classes,
    leaveout_objective,
    mean_entropy,
    msp_auroc,
    split_classes,
)
from sslood.nets.networks.files import load_model
from stages.leaveout import main
from tests.kit.small import call, write_params, write_sets
from tests.kit.training import SHARED

SECTION = {
    **SHARED, "epochs": 6, "batch_size": 50, "lr": 0.1, "schedule": "steps", "weight_decay": 5e-4,
    "beta": 0.2, "margin": 0.4, "folds": [0, 1, 2, 3], "seed": 0, "save_every": 2,
}  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLOOD_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("SSLOOD_THREADS", "1")
    return {
        "id_set": write_sets(tmp_path)["digits"],
        "backbone": "wideresnet",
        "sizes": f"{write_params(tmp_path / 'params.yaml')}:backbones.wideresnet",
        "fold": 1,
        "recipe": f"{tmp_path}/params.yaml:augment.classifier",
        "out": tmp_path / "1.safetensors",
        "out_curves": tmp_path / "curves.csv",
        **SECTION,
    }


def logits(seed, n=40, k=6):
    return 4 * torch.randn(n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_entropy_is_scipys_in_nats():
    x = logits(0)
    expected = entropy(torch.softmax(x, 1).numpy(), axis=1).mean()
    assert mean_entropy(x).item() == pytest.approx(expected, rel=1e-12)
    assert mean_entropy(torch.zeros(3, 8)).item() == pytest.approx(np.log(8), rel=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.4, 2.0])
def test_margin_is_on_batch_means(margin):
    own, other = logits(0), logits(1) / 4
    gap = [entropy(torch.softmax(x, 1).numpy(), axis=1).mean() for x in (own, other)]
    assert entropy_margin(own, other, margin).item() == pytest.approx(max(0.0, margin + gap[0] - gap[1]))
    labels = torch.arange(40) % 6
    loss, terms = leaveout_objective(torch.cat((own, other)), labels, beta=0.2, margin=margin)
    cross = -torch.log_softmax(own, 1)[torch.arange(40), labels].mean()
    assert loss.item() == pytest.approx(cross.item() + 0.2 * terms["entropy_margin"].item())


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


@pytest.mark.parametrize("dropout", [0, 30])
def test_an_interrupted_run_goes_on_with_the_same_bytes(run, dropout, monkeypatch, tmp_path):
    """With dropout too: its draws belong to the epoch, not to the process."""
    (tmp_path / "sizes.yaml").write_text(f"b: {{depth: 10, width: 1, dropout: {dropout}}}")
    run |= {"sizes": f"{tmp_path}/sizes.yaml:b", "epochs": 3}
    whole = run | {"out": run["out"].with_name("whole.safetensors")}
    assert call(main, **whole) == 0
    seen = []

    def interrupted(*logits):
        seen.append(logits)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return msp_auroc(*logits)

    with monkeypatch.context() as patch:
        patch.setattr("sslood.nets.methods.leaveout.msp_auroc", interrupted)
        assert call(main, **run) == 130 and not run["out"].exists()
    assert call(main, **run) == 0
    assert run["out"].read_bytes() == whole["out"].read_bytes()


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
        ({"backbone": "vgg"}, "unknown backbone 'vgg'; known: densenet, resnet"),
        ({"fold": 4}, "fold is 4"),
        ({"beta": -0.1}, "leaveout.beta must be at least 0, found -0.1"),
    ],
)
def test_wrong_options_end_with_one_sentence(run, change, message, capsys):
    assert call(main, **{**run, **change}) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
