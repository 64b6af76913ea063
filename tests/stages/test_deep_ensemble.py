"""The stage `deep_ensemble` as a command, on embeddings files written here."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score

from sslood.core.files import load_json, load_tensors, save_tensors
from stages import deep_ensemble
from tests.kit.small import call

COUNTS = {"digits": 60, "near": 40, "noise": 30}
ROLES = {"digits": "id", "near": "near", "noise": "far"}


def write(folder, seed, *, logits=True, shift=0):
    """Write the embeddings of a classifier of 5 classes: {set: logits}."""
    rng = np.random.default_rng(seed)
    tensors, found = {}, {}
    for name, count in COUNTS.items():
        found[name] = rng.normal(size=(count, 5)) * (4 if name == "digits" else 1)
        for split in ("test", "validation") if name == "digits" else ("test",):
            tensors[f"{name}.{split}.features"] = rng.normal(size=(count, 3)).astype(np.float32)
            tensors[f"{name}.{split}.labels"] = np.arange(count) % 5 + shift
            if logits:
                tensors[f"{name}.{split}.logits"] = found[name].astype(np.float32)
    roles = {name: {"role": role, "is_ood": role != "id", "is_tuning": False} for name, role in ROLES.items()}
    metadata = {"model": "c", "seed": seed, "id": "digits", "classes": list("abcde"), "sets": roles}
    metadata["model_metadata"] = {}
    save_tensors(folder / f"e/{seed}/c.safetensors", tensors, kind="embeddings", metadata=metadata)
    return found


def run(folder, seeds):
    return call(
        deep_ensemble.main, embeddings=folder / "e", model="c", seeds=seeds,
        out_results=folder / "out.json", out_scores=folder / "out.safetensors",
    )  # fmt: skip


def test_rows_are_those_of_the_averaged_probabilities(tmp_path):
    members = [write(tmp_path, seed) for seed in (0, 1, 2)]
    assert run(tmp_path, [0, 1, 2]) == 0
    written = load_json(tmp_path / "out.json")
    p = {name: softmax([member[name] for member in members], axis=2) for name in COUNTS}
    scores = {
        "msp": {name: -one.mean(0).max(1) for name, one in p.items()},
        "mutual_information": {
            name: entropy(one.mean(0), axis=1) - entropy(one, axis=2).mean(0) for name, one in p.items()
        },
    }
    rows = written["models"]["deep_c"]
    assert list(rows) == ["msp", "entropy", "mutual_information", "variation_ratio"]
    for detector, found in scores.items():
        for name in ("near", "noise"):
            both = np.concatenate([found["digits"], found[name]])
            expected = roc_auc_score(np.repeat([0, 1], [60, COUNTS[name]]), both)
            assert rows[detector][name]["auroc"] == pytest.approx(expected, abs=1e-4)
    predicted = p["digits"].mean(0).argmax(1)
    kept, _ = load_tensors(tmp_path / "out.safetensors")
    assert np.array_equal(kept["deep_c.predicted.digits"], predicted)  # from which AURC with OOD images comes
    expected = (predicted == np.arange(60) % 5).mean()
    assert written["accuracy"] == {"deep_c": expected}
    assert written["chosen"]["seeds"] == {"value": [0, 1, 2], "source": "params"}


def test_one_seed_is_no_ensemble(tmp_path, capsys):
    write(tmp_path, 0)
    assert run(tmp_path, [0]) == 0
    assert "deep_c (needs 2 seeds in runs.seeds, there is 1)" in capsys.readouterr().out
    assert load_json(tmp_path / "out.json")["accuracy"] == {}


def test_names_what_does_not_go_together(tmp_path, capsys):
    write(tmp_path, 0)
    assert run(tmp_path, [0, 1]) == 1
    assert "no embeddings of model 'c'" in capsys.readouterr().err
    write(tmp_path, 1, shift=-1)
    assert run(tmp_path, [0, 1]) == 1
    assert "another member has other images of digits" in capsys.readouterr().err
    write(tmp_path, 1, logits=False)
    assert run(tmp_path, [0, 1]) == 1
    assert "take the model out of runs.deep_models" in capsys.readouterr().err
