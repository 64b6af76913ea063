"""Rows of the stage posthoc that combine others' scores, on small synthetic files."""

import json

import numpy as np
import pytest
import torch

from sslood.core.errors import LeftOut
from sslood.core.files import load_tensors, save_tensors
from sslood.ood.kit.combining import evidence
from stages import posthoc
from tests.stages.test_evaluations import embeddings, listed, searched, stage

NAMES = ("mahalanobis", "energy", "knn", "msp")
SECTION = (
    "combinations:\n"
    "  auto: {members: auto, by: sum}\n"
    "  auto_simes: {members: auto, by: simes}\n"
    "  mahalanobis_energy: {members: [mahalanobis, energy], by: sum}\n"
)
SETS = ("digits", "close", "noise", "dusk", "digits.validation")


def run(folder, options, section=SECTION, **changes):
    (folder / "p.yaml").write_text(section)
    given = [*options, "--combinations", f"{folder}/p.yaml:combinations"]
    return stage(posthoc, folder, given, **changes)


def written(folder, name="out"):
    return json.loads((folder / f"{name}.json").read_text()), load_tensors(folder / f"{name}.safetensors")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("combinations")
    embeddings(folder / "e", "scratch", head=False)
    embeddings(folder / "e", "classifier", head=True)
    assert run(folder, searched(*NAMES)).exit_code == 0
    return folder


def test_a_sum_is_that_of_its_members_scores_standardised_by_id_validation(folder):
    found, scores = written(folder)
    row = {name: scores[f"classifier.mahalanobis_energy.{name}"] for name in SETS}
    expected = dict.fromkeys(SETS, 0.0)
    for member in ("mahalanobis", "energy"):
        chosen = {
            key.rpartition(".")[2]: entry["value"]
            for key, entry in found["chosen"].items()
            if key.startswith(f"classifier.{member}.")
        }
        kind = posthoc.DETECTORS[member]
        own = posthoc.results_of("posthoc", folder / "e", ["classifier"], 0)[1][0]
        train, validation = (own.outputs("digits", split) for split in ("train", "validation"))
        inside = kind(kind.Settings(**chosen)).fit(train, validation).score(validation)
        for name in SETS:
            expected[name] = (
                expected[name] + (scores[f"classifier.{member}.{name}"] - inside.mean()) / inside.std()
            )
    for name in SETS:
        np.testing.assert_allclose(row[name], expected[name], rtol=1e-5, atol=2e-6)
    assert found["chosen"]["mahalanobis_energy.members"] == {
        "value": ["mahalanobis", "energy"],
        "source": "params",
    }


def test_other_rows_are_what_they_are_without_combinations(folder):
    assert stage(posthoc, folder, searched(*NAMES), name="plain").exit_code == 0
    (found, scores), (plain, alone) = written(folder), written(folder, "plain")
    for model, detectors in plain["models"].items():
        assert {name: found["models"][model][name] for name in detectors} == detectors
    assert {key: found["chosen"][key] for key in plain["chosen"]} == plain["chosen"]
    assert all(np.array_equal(scores[key], array) for key, array in alone.items())
    assert len(scores) > len(alone)


def test_a_choice_of_one_is_its_row_and_says_on_what(folder):
    found, scores = written(folder)
    entry = found["chosen"]["scratch.auto.members"]
    assert entry["source"] == (
        "highest mean AUROC of digits.validation against corruptions.validation, at most 3, each raising "
        "it by 0.001 or more"
    )
    assert entry["candidates"][0]["members"] == entry["value"] and len(entry["value"]) == 1
    (member,) = entry["value"]
    assert found["models"]["scratch"]["auto"] == found["models"]["scratch"][member]
    for name in SETS:
        np.testing.assert_array_equal(scores[f"scratch.auto.{name}"], scores[f"scratch.{member}.{name}"])


def test_a_model_that_cannot_have_a_member_is_left_out_with_the_reason(folder):
    found, _ = written(folder)
    assert "mahalanobis_energy" not in found["models"]["scratch"]
    assert found["left_out"] == [
        {
            "model": "scratch",
            "detector": "mahalanobis_energy",
            "set": "",
            "reason": "it combines energy, but the model lacks what it reads (logits)",
        }
    ]


def test_a_choice_looks_at_no_test_image(folder):
    path = folder / "e" / "classifier.safetensors"
    arrays, metadata = load_tensors(path)
    arrays = {key: array + (".test." in key) * array.dtype.type(3) for key, array in arrays.items()}
    about = metadata | {"model": "shifted"}
    save_tensors(folder / "e" / "shifted.safetensors", arrays, kind="embeddings", metadata=about)
    assert run(folder, searched(*NAMES), models=["shifted"], name="shifted").exit_code == 0
    (found, scores), (shifted, moved) = written(folder), written(folder, "shifted")
    for name in ("auto", "auto_simes"):
        before, after = (
            one["chosen"][f"{m}.{name}.members"] for one, m in ((found, "classifier"), (shifted, "shifted"))
        )
        assert before == after and before["value"]
        key = f"{name}.close"
        assert not np.array_equal(scores[f"classifier.{key}"], moved[f"shifted.{key}"])


def test_without_a_tuning_set_nothing_is_chosen_and_what_is_given_is_combined(folder):
    arrays, metadata = load_tensors(folder / "e" / "classifier.safetensors")
    sets = {name: entry for name, entry in metadata["sets"].items() if name != "corruptions"}
    about = metadata | {"sets": sets, "model": "untuned"}
    save_tensors(folder / "e" / "untuned.safetensors", arrays, kind="embeddings", metadata=about)
    result = run(folder, listed(*NAMES), models=["untuned"], name="untuned")
    assert result.exit_code == 0, result.output
    found = written(folder, "untuned")[0]
    assert {"auto", "mahalanobis_energy"} & set(found["models"]["untuned"]) == {"mahalanobis_energy"}
    assert [row["detector"] for row in found["left_out"]] == ["auto", "auto_simes"]
    assert "no set has role tuning, on which its members would be chosen" in result.output


def test_a_member_that_is_not_run_is_named(folder):
    result = run(folder, searched("knn", "msp"), name="none")
    assert result.exit_code == 1
    assert "combinations.mahalanobis_energy.members: 'mahalanobis' is not run; add it to" in result.output


def test_a_member_that_is_left_out_leaves_out_the_combination_with_its_reason(folder, monkeypatch):
    def refuse(self, source):
        raise LeftOut("too few images")

    monkeypatch.setattr(posthoc.DETECTORS["energy"], "_fit", refuse)
    result = run(folder, listed(*NAMES), models=["classifier"], name="lacking")
    assert result.exit_code == 0, result.output
    rows = {row["detector"]: row["reason"] for row in written(folder, "lacking")[0]["left_out"]}
    assert rows == {
        "energy": "too few images",
        "mahalanobis_energy": "it combines energy, but that is left out: too few images",
    }


def test_scores_that_are_all_equal_are_not_standardised(folder, monkeypatch):
    monkeypatch.setattr(
        posthoc.DETECTORS["energy"], "_score", lambda self, parts, state: 0 * parts["logits"][:, 0]
    )
    result = run(folder, listed(*NAMES), models=["classifier"], name="flat")
    assert result.exit_code == 0, result.output
    found = written(folder, "flat")[0]
    (row,) = found["left_out"]
    assert row["detector"] == "mahalanobis_energy"
    assert "the scores of energy are the same for all 30 ID images" in row["reason"]
    assert "energy" not in found["chosen"]["classifier.auto.members"]["value"]


def test_what_was_fitted_on_validation_is_never_chosen(folder, monkeypatch):
    """Its scores of these images flatter it; a combination may name it all the same."""
    monkeypatch.setattr(posthoc.DETECTORS["mahalanobis"], "on_validation", True)
    result = run(folder, listed("mahalanobis", "energy"), models=["classifier"], name="flattered")
    assert result.exit_code == 0, result.output
    found = written(folder, "flattered")[0]
    assert found["chosen"]["classifier.auto.members"]["value"] == ["energy"]
    assert "mahalanobis_energy" in found["models"]["classifier"]


def test_references_of_p_values_make_no_threshold(folder):
    """Nor do those of a sum with a member that was fitted on ID validation."""
    names = ("mahalanobis", "energy", "kl_matching")
    rows = {"plain": "sum", "fisher_of": "fisher", "simes_of": "simes", "cauchy_of": "cauchy"}
    section = "".join(f"  {row}: {{members: [mahalanobis, energy], by: {by}}}\n" for row, by in rows.items())
    more = "  first: {members: [kl_matching, energy]}\n  last: {members: [energy, kl_matching]}\n"
    result = run(folder, listed(*names), f"combinations:\n{section}{more}", models=["classifier"], name="by")
    assert result.exit_code == 0, result.output
    scores = written(folder, "by")[1]
    for row in (*rows, "first", "last"):
        assert (f"classifier.{row}.digits.validation" in scores) == (row == "plain"), row
        assert {"digits", "close", "noise", "dusk"} == {
            name for name in SETS if f"classifier.{row}.{name}" in scores and "." not in name
        }


@pytest.mark.parametrize("by", ["fisher", "simes", "cauchy"])
def test_p_values_count_the_references_that_equal_a_test_image(folder, monkeypatch, by):
    """Of scores with few values, whose rounding for the tables must not part equal ones."""
    kind, names = posthoc.DETECTORS["energy"], ("energy", "max_logit")
    fine = kind._score
    monkeypatch.setattr(kind, "_score", lambda self, *given: (2 * fine(self, *given)).round() / 7)
    section = f"combinations:\n  both: {{members: [energy, max_logit], by: {by}}}\n"
    assert run(folder, listed(*names), section, models=["classifier"], name="equal").exit_code == 0
    own = posthoc.results_of("posthoc", folder / "e", ["classifier"], 0)[1][0]
    p = []
    for name in names:
        detector = posthoc.DETECTORS[name]().fit(own.outputs("digits", "train"))
        references, found = (detector.score(own.outputs("digits", split)) for split in ("validation", "test"))
        above = (references >= found[:, None]).sum(1)
        p.append(np.where(above > 0, (0.5 + above) / 31, np.nan))
        assert np.isin(found, references).any() == (name == "energy")
    within = ~np.isnan(p).any(0)
    expected = evidence(torch.from_numpy(np.stack(p)[:, within]), by).numpy()
    row = written(folder, "equal")[1]["classifier.both.digits"]
    assert within.sum() > 50
    np.testing.assert_allclose(row[within], expected, rtol=1e-5, atol=2e-6)
