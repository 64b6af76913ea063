"""The whole pipeline on sets that are too small, or lack labels: it leaves rows out, and says why."""

import csv
import json
from pathlib import Path

import pytest

from sslood.core.files import load_json, read_metadata
from tests.kit.walk import CORRUPTIONS, own, pictures, walk

ODD = {"one": {"": 1}, "four": {"": 4}, "six": {"": 6}, "uneven": {"x": 9, "y": 3}, "namesakes": {"CAT": 7}}


def left_out(folder: Path, stage: str) -> dict[str, str]:
    """Return {"model detector set": reason} of the results of a stage."""
    rows = [
        row
        for file in (folder / "data/results" / stage).glob("*.json")
        for row in load_json(file)["left_out"]
    ]
    return {
        " ".join(filter(None, (row["model"], row["detector"], row["set"]))): row["reason"] for row in rows
    }


def failed(found: dict[str, tuple[int, str]]) -> dict[str, str]:
    return {name: output[-300:] for name, (status, output) in found.items() if status}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """An ID set with classes of one and of two pictures, odd OOD sets, and no tuning set."""
    folder = tmp_path_factory.mktemp("odd")
    sets = {"mine": own("id", pictures(folder / "id", {"cat": 20, "dog": 20, "fox": 1, "gnu": 2}))}
    for name, counts in {"near": {"p": 12}, **ODD}.items():
        role = "near" if name == "near" else "far"
        sets[name] = own(role, pictures(folder / name, counts, len(sets)))
    sets["dusk"] = own("shifted", pictures(folder / "dusk", {"Cat": 3, "gnu": 2, "owl": 4}))
    # DVC wants a set that is there, though only the published rule of `leaveout` reads it
    changes = {
        "tuning": "near",
        "runs": {"energy_inits": []},
        "evaluate": {"models": ["simclr", "classifier_scratch"]},
    }
    return folder, walk(folder, {"sets": sets}, changes)


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """An ID set of 30 pictures in all, without labels, and a tuning set made from it."""
    folder = tmp_path_factory.mktemp("flat")
    sets = {
        "mine": own("id", pictures(folder / "id", {"": 30})),
        "gaussian": {"role": "far", "source": "gaussian"},
        "noisy": own("shifted", folder / "id", derive="common_corruptions"),
    }
    return folder, walk(
        folder, {"sets": sets | {"corruptions": {**CORRUPTIONS, "folder": str(folder / "id")}}}
    )


def test_no_stage_stops(odd, flat):
    assert not failed(odd[1]) and not failed(flat[1])


def test_download_says_what_a_set_is_too_small_for(odd):
    folder, found = odd
    said = {name: " ".join(found[f"download@{name}"][1].split()) for name in ("mine", *ODD)}
    assert "mine train images of classes fox, gnu 1 2 left out: gmm" in said["mine"]
    assert "one test images 1 2 AUROC without an interval, and no test against the best" in said["one"]
    assert "four test images 4 5 left out unless k is smaller: ssdk" in said["four"]
    assert "uneven test images of class y 3 5 left out unless k is smaller: ssdk" in said["uneven"]
    assert said["six"].endswith("8x8.") and "limits" not in read_metadata(
        folder / "data/sets/six.safetensors"
    )


def test_later_stages_leave_just_that_out(odd):
    folder, _ = odd
    found = left_out(folder, "posthoc")
    assert found["simclr gmm"] == "needs 2 train images in the smallest class, there is 1"
    lacking = "it combines energy, but the model lacks what it reads (logits)"
    assert found["simclr mahalanobis_energy"] == lacking
    assert found["simclr auto"] == "no set has role tuning, on which its members would be chosen"
    assert {name.split()[1] for name in found if "auto" not in name and "_energy" not in name} == {
        "gmm", "knn",  # 50 neighbours, among 24
    }  # fmt: skip
    assert left_out(folder, "ssdk") == {
        **{
            f"{model} ssdk one": "needs 5 test images, there is 1"
            for model in ("simclr", "classifier_scratch")
        },
        **{
            f"{model} ssdk four": "needs 5 test images, there are 4"
            for model in ("simclr", "classifier_scratch")
        },
        **{
            f"{model} ssdk uneven": "needs 5 test images in the smallest class, there are 3"
            for model in ("simclr", "classifier_scratch")
        },
    }
    assert list(left_out(folder, "network")) == ["classifier_scratch odin"]
    assert len(left_out(folder, "ensemble")) == 6


def test_without_a_tuning_set_auto_is_the_detectors_own_value(odd):
    chosen = load_json(odd[0] / "data/results/posthoc/0.json")["chosen"]
    assert chosen["classifier_scratch.react.quantile"] == {
        "value": 0.9, "source": "the detector's own, since no set has role tuning"
    }  # fmt: skip


def test_tables_give_the_reasons(odd):
    folder, _ = odd
    table = (folder / "metrics/table.md").read_text()
    assert (
        "| simclr, classifier_scratch | gmm | all | needs 2 train images in the smallest class, there is 1 |"
        in table
    )
    assert (
        "| simclr, classifier_scratch | ssdk | uneven | needs 5 test images in the smallest class, there"
        in table
    )
    for text in (folder / "metrics/per_set.md", folder / "report/index.html"):
        assert "What the image sets are too small for:" in text.read_text()
    with open(folder / "metrics/results.csv") as lines:
        rows = {
            (row["detector"], row["set"]): row for row in csv.DictReader(lines) if row["model"] == "simclr"
        }
    assert rows["ssd", "one"]["auroc"] and not rows["ssd", "one"]["auroc_low"] + rows["ssd", "one"]["p_best"]
    assert rows["ssd", "six"]["auroc_low"] and rows["ssdk", "six"]["n_ood"] == "1"
    # no mean over the far sets where some are left out: it would be over others than its rivals'
    metrics = json.loads((folder / "metrics/ood/simclr.ssdk.json").read_text())
    assert set(metrics) == {"near_auroc", "near_fpr95_id"}


def test_a_shifted_set_of_any_size_counts_as_id(odd, flat):
    """Classes by their names, without those that are none of the ID set; of pictures without labels none."""
    folder, found = odd
    assert "dusk: left out, being no ID classes: owl" in found["download@dusk"][1]
    with open(folder / "metrics/results.csv") as lines:
        rows = {(row["model"], row["detector"], row["set"]): row for row in csv.DictReader(lines)}
    assert rows["classifier_scratch", "energy", "six"]["full_auroc"]
    assert not rows["classifier_scratch", "ssdk", "six"]["full_auroc"]
    accuracy = json.loads((folder / "metrics/accuracy/classifier_scratch.json").read_text())
    assert {"accuracy_knn_on_dusk", "accuracy_head_on_dusk"} <= accuracy.keys()
    assert (5 * accuracy["accuracy_head_on_dusk"]) % 1 == pytest.approx(0, abs=1e-5), "of five pictures"
    assert "Too few images for a threshold" in (folder / "metrics/decisions.md").read_text()
    assert "noisy" in (flat[0] / "metrics/decisions.md").read_text()


def test_the_audit_reports_a_class_name_of_the_id_set(odd):
    assert "namesakes shares classes with the ID set: CAT" in odd[1]["audit"][1]


def test_what_needs_labels_is_left_out(flat):
    folder, found = flat
    reason = "needs 2 labelled classes in train, there are 0"
    of_set = f"set mine {reason}"
    assert "Left out data/models/classifier_scratch-0.safetensors: " + of_set in found["train@scratch-0"][1]
    assert left_out(folder, "ssd") == dict.fromkeys(
        ("classifier_scratch", "energy_head_classifier_scratch"), of_set
    )
    assert left_out(folder, "probe")["simclr accuracy knn"] == reason
    assert left_out(folder, "ensemble") == {"leaveout_wideresnet": "needs 3 classes for 3 folds, there are 0"}
    models = "classifier_scratch, energy_head_classifier_scratch, deep_classifier_scratch"
    assert f"| {models} | all | all | {of_set} |" in (folder / "metrics/table.md").read_text()
    scored = {path.name for path in (folder / "metrics/ood").iterdir()}
    combined = ("auto", "auto_fisher", "auto_simes", "auto_cauchy")
    assert scored == {
        f"simclr.{name}.json" for name in (*combined, "cfood", "knn", "residual", "ssd", "ssdk")
    }


def test_a_training_takes_the_batches_that_a_set_fills(flat):
    assert "batch_size is 64, but the set fills only 17" in flat[1]["pretrain@simclr-0"][1]
