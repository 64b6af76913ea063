"""Averages and tables, from made-up results with known answers."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from sslood.core.files import load_tensors, save_json, save_tensors, save_text
from sslood.report.columns import describe
from sslood.report.frame import read_runs
from tests.kit.summarised import OOD, metrics, write_audit, write_scores, written
from tests.report.test_outliers import energies, measured
from tools.closure import ROOT


@pytest.fixture
def run(tmp_path):
    return written(tmp_path)


@pytest.mark.parametrize("choosing", [False, True])
def test_what_a_training_against_outliers_chose_is_in_the_table_and_on_the_page(run, tmp_path, choosing):
    params = (tmp_path / "params.yaml").read_text()
    named = "outlier_losses: [oe], energy_modes: [full], energy_inits: [simclr]"
    save_text(tmp_path / "params.yaml", params.replace("energy_inits: [], energy_modes: []", named))
    kept, last = measured(2, 0.9, 0.8, 0.75), measured(3, 0.91, 0.7, 0.64)
    more = {"tried": [{"kept": kept, "last": last}], "best": 0} if choosing else {}
    for seed in (0, 1):
        save_json(tmp_path / f"results/energies/oe_full_simclr-{seed}.json", {**energies(0), **more})
    assert run().exit_code == 0
    for file in ("metrics/table.md", "metrics_report/index.html"):
        shown = (tmp_path / file).read_text()
        assert (
            "mean energy [5 %, 95 %], outliers" in shown and "-3.50 [-6.0, 0.0] → -1.50 [-4.0, 2.0]" in shown
        )
        for words in ("OSCR", "epoch kept, of those trained", "75.0 / 64.0"):
            assert (words in shown) == choosing, words


def test_every_key_of_runs_is_used():
    """Only the keys that `summarize` needs are checked there; another one would be a slip of the pen."""
    read_runs(f"{ROOT}/params.yaml:runs")
    used = set(re.findall(r"\$\{runs\.(\w+)\}", (ROOT / "dvc.yaml").read_text()))
    for path in (ROOT / "params.yaml", *(ROOT / "profiles").glob("*.yaml")):
        assert set(yaml.safe_load(path.read_text()).get("runs", {})) <= used, path


def test_metrics_are_means_over_sets_then_seeds(run, tmp_path):
    assert run().exit_code == 0
    found = json.loads((tmp_path / "metrics/ood/simclr.knn.json").read_text())
    # near: one set, seeds 0.90 and 0.92; far: (0.90 + 0.91) / 2 and (0.92 + 0.93) / 2
    assert found == pytest.approx(
        {"near_auroc": 0.91, "near_fpr95_id": 0.09, "far_auroc": 0.915, "far_fpr95_id": 0.085}
    )
    accuracy = json.loads((tmp_path / "metrics/accuracy/simclr.json").read_text())
    assert accuracy == pytest.approx({"accuracy_knn": 0.91, "accuracy_linear": 0.5})


def test_summary_holds_mean_std_and_n(run, tmp_path):
    run()
    summary = json.loads((tmp_path / "metrics/summary.json").read_text())
    assert summary["simclr"]["knn"]["held"]["auroc"] == {"mean": 0.91, "std": 0.014142, "n": 2}
    assert summary["leaveout_wrn"]["eloc"]["held"]["auroc"] == {"mean": 0.99, "n": 1}


def test_table_marks_the_best_and_leaves_gaps(run, tmp_path):
    run()
    table = (tmp_path / "metrics/table.md").read_text()
    assert "| detector | `simclr` | `scratch` |" in table and "| detector | `leaveout_wrn` |" in table
    assert "| `knn` | 91.0 / 91.5† | 61.0 / 61.5† |" in table
    assert "| `ssd` | 81.0 / 81.5† | 41.0† / 41.5† |" in table
    assert "**99.0** / **99.0**" in table
    assert "| `simclr` | 91.0 ± 1.4 | 50.0 ± 0.0 | – |" in table
    per_set = (tmp_path / "metrics/per_set.md").read_text().splitlines()
    assert per_set[4].startswith("| `leaveout_wrn` | `eloc` | 99.0‡ [")  # best first
    assert "] / 1.0 |" in per_set[4]  # one run: with its interval over images
    assert "91.0 ± 1.4‡ / 9.0 ± 1.4" in per_set[5]
    assert "71.0 ± 1.4 / 29.0 ± 1.4 |" in "".join(per_set)  # ssdk competes with nobody


def test_results_hold_an_interval_and_the_test_against_the_best(run, tmp_path):
    """All detectors of the fixture have the same scores: DeLong's interval by hand, no difference."""
    run()
    rows = pd.read_csv(tmp_path / "metrics/results.csv")
    generator = np.random.default_rng(0)
    inside, outside = (generator.normal(size=50) + shift for shift in (0, 1))
    wins = outside[:, None] > inside
    variance = wins.mean(1).var(ddof=1) / 50 + wins.mean(0).var(ddof=1) / 50
    auroc = wins.mean()
    half = 1.959964 * variance**0.5 / (auroc * (1 - auroc))
    row = rows[(rows["detector"] == "eloc") & (rows["set"] == "held")].iloc[0]
    expected = [1 / (1 + (1 / auroc - 1) * np.exp(sign * half)) for sign in (1, -1)]
    assert [row["auroc_low"], row["auroc_high"]] == pytest.approx(expected, abs=2e-6)
    assert (rows.loc[rows["detector"] == "eloc", "p_best"] == 1).all()
    assert rows.loc[rows["detector"] == "ssdk", "p_best"].isna().all()


def test_filtered_numbers_are_those_of_the_images_kept(run, tmp_path):
    known, other = [0, 3, 49], [1, 3, 10, 48]
    write_audit(tmp_path / "audit.safetensors", left_out={"digits": known, "blobs": other})
    assert run().exit_code == 0
    rows = pd.read_csv(tmp_path / "metrics/results.csv")
    assert len(rows) == 6 * 6 + 3
    kept = {"digits": 47, "held": 50, "noise": 50, "blobs": 46}
    for row in rows.to_dict("records"):
        file = "wrn-margin" if row["stage"] == "ensemble" else row["seed"]
        found, _ = load_tensors(tmp_path / f"scores/{row['stage']}/{file}.safetensors", kind="scores")
        name = f"{row['model']}.{row['detector']}"
        is_ssdk = row["detector"] == "ssdk"
        inside = np.delete(found[f"{name}.digits.{row['set']}" if is_ssdk else f"{name}.digits"], known)
        outside, places = found[f"{name}.{row['set']}"], np.arange(50)
        if is_ssdk:
            places = found[f"{name}.{row['set']}.index"]
        outside = outside[~np.isin(places, other if row["set"] == "blobs" else [])]
        truth = np.repeat([0, 1], [len(inside), len(outside)])
        expected = roc_auc_score(truth, np.concatenate([inside, outside]))
        assert row["filtered_auroc"] == pytest.approx(expected, abs=1e-6)
        threshold = np.sort(inside)[int(np.ceil(0.95 * len(inside))) - 1]
        assert row["filtered_fpr95_id"] == pytest.approx((outside <= threshold).mean(), abs=1e-6)
        assert row["filtered_n_id"] == 47
        if not is_ssdk:
            assert row["filtered_n_ood"] == kept[row["set"]]
    per_set = (tmp_path / "metrics/per_set.md").read_text()
    assert "| `blobs` | far | 50 | 90.0 | rougher | 0 | 4 | 0 | 4 |" in per_set
    assert "The first table without the excluded images, on both sides." in per_set
    page = (tmp_path / "metrics_report/index.html").read_text()
    assert "<small>control 90.0, 4 excluded</small>" in page and "Results without overlaps" in page


def test_without_overlaps_the_filtered_numbers_are_the_raw_ones(run, tmp_path):
    run()
    rows = pd.read_csv(tmp_path / "metrics/results.csv")
    for name in ("auroc", "fpr95_id", "fpr95_ood", "n_id", "n_ood"):
        assert np.array_equal(rows[f"filtered_{name}"], rows[name])
    assert "without the excluded images" not in (tmp_path / "metrics/per_set.md").read_text()
    assert "without overlaps" not in (tmp_path / "metrics_report/index.html").read_text()


def test_a_mark_stands_where_the_control_nearly_matches(run, tmp_path):
    """Controls: 0.5; 0.05, so 0.95 the other way round; 0.9. The figures marked or not: 0.91, 0.91, 0.92."""
    run()
    lines = (tmp_path / "metrics/per_set.md").read_text().splitlines()
    line = next(line for line in lines if "`simclr` | `knn`" in line)
    cells = [cell.strip() for cell in line.split("|")[3:6]]
    assert ["†" in cell for cell in cells] == [False, True, True]
    assert cells[1] == "91.0 ± 1.4†‡ / 9.0 ± 1.4"
    assert "| `noise` | far | 50 | 95.0 | smoother |" in "\n".join(lines)
    table = (tmp_path / "metrics/table.md").read_text()
    assert "† marks results at most 2.0 points of AUROC above the artefact control" in table
    assert "The control alone reaches 50.0 / 92.5 (`held` 50.0, `noise` 95.0, `blobs` 90.0)." in table
    run(margin="0.01")
    lines = (tmp_path / "metrics/per_set.md").read_text().splitlines()
    line = next(line for line in lines if "`simclr` | `knn`" in line)
    assert ["†" in cell for cell in line.split("|")[3:6]] == [False, True, False]


def test_a_set_that_is_left_out_whole_has_no_filtered_numbers(run, tmp_path):
    write_audit(tmp_path / "audit.safetensors", left_out={"noise": range(50)})
    assert run().exit_code == 0
    rows = pd.read_csv(tmp_path / "metrics/results.csv")
    assert rows.loc[rows["set"] == "noise", "filtered_auroc"].isna().all()
    assert rows.loc[rows["set"] != "noise", "filtered_auroc"].notna().all()


def test_an_audit_of_other_sets_is_named(run, tmp_path):
    tensors, about = load_tensors(tmp_path / "audit.safetensors")
    tensors, about["sets"]["held"]["n"] = dict(tensors) | {"held.left_out": np.array([1])}, 20
    save_tensors(tmp_path / "other.safetensors", tensors, kind="audit", metadata=about)
    (tmp_path / "other.safetensors").replace(tmp_path / "audit.safetensors")
    assert "has more images of 'held' than" in run().stderr
    del about["sets"]["held"]
    save_tensors(tmp_path / "audit.safetensors", {"x": np.zeros(1)}, kind="audit", metadata=about)
    assert "does not hold set 'held'; run `dvc repro audit`" in run().stderr
    (tmp_path / "audit.safetensors").unlink()
    assert "audit.safetensors: no such file" in run().stderr


def test_every_column_of_the_results_is_describe(run, tmp_path, root):
    run()
    columns = pd.read_csv(tmp_path / "metrics/results.csv").columns
    assert [name for name in columns if not describe(name)] == []
    assert "- `fpr95_id`: share of OOD accepted" in (tmp_path / "metrics/per_set.md").read_text()
    header = (root / "metrics/results.csv").read_text().splitlines()[0]
    assert [name for name in header.split(",") if not describe(name)] == []
    assert describe("auroc_median") == ""


def test_auto_is_shown_with_its_choice_and_its_price(run, tmp_path):
    for seed in (0, 1):
        path = tmp_path / f"results/posthoc/{seed}.json"
        content = json.loads(path.read_text())
        content["models"]["simclr"]["auto"] = {name: metrics(0.85) for name in OOD}
        tried = [{"members": ["knn"], "auroc": 0.8}, {"members": ["knn", "energy"], "auroc": 0.82}]
        content["chosen"]["simclr.auto.members"] = {
            **{"value": ["knn", "energy"], "source": "highest", "candidates": tried}
        }
        save_json(path, content)
        names = ["simclr.knn", "scratch.knn", "simclr.auto"]
        write_scores(tmp_path / f"scores/posthoc/{seed}.safetensors", names)
    assert run().exit_code == 0
    table = (tmp_path / "metrics/table.md").read_text()
    assert "| `simclr` | knn + energy | 82.0 | 85.0 | 91.0 knn | 6.0 | 85.0 | 91.5 knn | 6.5 |" in table
    rows = pd.read_csv(tmp_path / "metrics/results.csv").set_index(["detector", "model", "seed", "set"])
    assert rows.loc[("auto", "simclr", 1, "blobs"), "price"] == pytest.approx(0.93 - 0.85)
    assert rows["price"].notna().sum() == 2 * len(OOD)


def test_two_runs_give_the_same_bytes(run, tmp_path):
    run()
    run(out="again")
    for name in ("metrics", "metrics_report"):
        for file in sorted((tmp_path / name).rglob("*")):
            other = tmp_path / name.replace("metrics", "again") / file.relative_to(tmp_path / name)
            assert file.is_dir() or file.read_bytes() == other.read_bytes(), file


def test_wrong_input_is_named(run, tmp_path):
    assert "needs 'mnist' with role id" in run(id_name="mnist").stderr
    (tmp_path / "results/ssd/1.json").unlink()
    assert "results/ssd/1.json: no such file" in run().stderr
    save_json(tmp_path / "results/ssd/1.json", {"models": {"simclr": {"ssd": {"svhn": metrics(0.5)}}}})
    result = run()
    assert result.exit_code == 1 and "holds set 'svhn'" in result.stderr


def test_results_of_the_network_and_of_stochastic_models_are_taken_up(run, tmp_path):
    for seed in (0, 1):
        models = {"simclr": {"gram": {s: metrics(0.97 + 0.02 * seed) for s in OOD}}}
        save_json(tmp_path / f"results/network/simclr-{seed}.json", {"models": models, "chosen": {}})
        write_scores(tmp_path / f"scores/network/simclr-{seed}.safetensors", ["simclr.gram"])
    models = {"scratch": {"kl_knn": {s: metrics(0.99) for s in OOD}}}
    save_json(tmp_path / "results/stochastic/0.json", {"models": models, "chosen": {}})
    write_scores(tmp_path / "scores/stochastic/0.safetensors", ["scratch.kl_knn"])
    params = (tmp_path / "params.yaml").read_text()
    params = params.replace("network_models: []", "network_models: [simclr]")
    save_text(tmp_path / "params.yaml", params.replace("stochastic_seeds: []", "stochastic_seeds: [0]"))
    done = run()
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "metrics/ood/simclr.gram.json").read_text())
    assert found["near_auroc"] == pytest.approx(0.98)
    assert (tmp_path / "metrics/ood/scratch.kl_knn.json").is_file()
    # the best of their models: their scores are drawn
    page = (tmp_path / "metrics_report/index.html").read_text()
    assert "simclr · gram" in page and "scratch · kl_knn" in page


def test_accuracies_are_headed_in_words(run, tmp_path):
    for seed in (0, 1):
        probes = {"knn": 0.9, "linear": 0.5, "linear_0.01": 0.25, "linear_0.1": 0.4, "transfer_flowers": 0.3}
        probes = {name: {"accuracy": value} for name, value in probes.items()}
        save_json(tmp_path / f"results/probe/{seed}.json", {"models": {"simclr": probes, "scratch": probes}})
    assert run().exit_code == 0
    head = "| model | knn | linear | linear, 1 % of labels | linear, 10 % of labels | transfer to flowers |"
    table = (tmp_path / "metrics/table.md").read_text()
    assert head in table
    assert "Transfer: the linear probe trained and tested on the images and classes of that set." in table
    # the metrics keep their short keys
    accuracy = json.loads((tmp_path / "metrics/accuracy/simclr.json").read_text())
    assert accuracy["accuracy_linear_0.01"] == 0.25 and accuracy["accuracy_transfer_flowers"] == 0.3


def test_the_small_table_shows_what_is_asked_for(run, tmp_path):
    """Rows and columns in the order of the params, without those that have no results; the best in bold."""
    run()
    lines = (tmp_path / "metrics/headline.md").read_text().splitlines()
    assert lines[0].startswith(
        "AUROC in %, near-OOD / far-OOD: mean over the sets of each group and over 2 seeds, best in bold. †"
    )
    assert lines[2:] == [
        "| detector | `simclr` | `scratch` |",
        "| :--- | ---: | ---: |",
        "| `ssd` | 81.0 / 81.5† | 41.0† / 41.5† |",
        "| `knn` | **91.0** / **91.5**† | 61.0 / 61.5† |",
    ]
    assert run(headline=("absent",), detectors=("absent",)).exit_code == 0
    lines = (tmp_path / "metrics/headline.md").read_text().splitlines()
    assert lines[2] == "| detector | `simclr` | `scratch` |" and len(lines) == 7


def test_noise_of_another_processor_changes_no_byte(run, tmp_path):
    """Metrics that differ by 1e-14 and scores that differ by 1e-12 are the same results."""
    run()
    for path in (tmp_path / "results").rglob("*.json"):
        noisy = json.loads(path.read_text(), parse_float=lambda text: float(text) * (1 + 1e-14))
        save_json(path, noisy)
    for path in (tmp_path / "scores").rglob("*.safetensors"):
        tensors, _ = load_tensors(path, kind="scores")
        scores = {
            name: values * (1 + 1e-12) if values.dtype == np.float64 else np.array(values)
            for name, values in tensors.items()
        }
        save_tensors(path, scores, kind="scores", metadata={})
    run(out="other")
    for file in [*(tmp_path / "metrics").rglob("*.*"), tmp_path / "metrics_report/index.html"]:
        other = tmp_path / str(file.relative_to(tmp_path)).replace("metrics", "other", 1)
        assert file.read_bytes() == other.read_bytes(), file


def test_names_are_shown_as_they_are(run, tmp_path):
    """An ensemble may have any name: its scores lie beside its results, and HTML is escaped."""
    content = (tmp_path / "results/ensemble/wrn-margin.json").read_text()
    (tmp_path / "results/ensemble/wrn-margin.json").write_text(content.replace("leaveout_wrn", "<b>&c"))
    write_scores(tmp_path / "scores/ensemble/wrn-margin.safetensors", ["<b>&c.eloc"])
    assert run().exit_code == 0
    page = (tmp_path / "metrics_report/index.html").read_text()
    assert "&lt;b&gt;&amp;c" in page and "<b>&c" not in page and "<td>&lt;b&gt;&amp;c</td>" in page
    assert "| `<b>&c` | `eloc` |" in (tmp_path / "metrics/per_set.md").read_text()
