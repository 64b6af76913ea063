"""Averages, tables and the page, from made-up results with known answers."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

from stages.core.artefacts import save_json, save_tensors, save_text
from stages.summarize import main

SETS = {"digits": "id", "held": "near", "noise": "far", "blobs": "far", "corruptions": "tuning"}
OOD = [name for name, role in SETS.items() if role in ("near", "far")]


def metrics(auroc):
    return {
        "auroc": auroc,
        "fpr95_id": 1 - auroc,
        "fpr95_ood": 1 - auroc,
        "aupr_in": auroc,
        "aupr_out": auroc,
        "aupr_in_balanced": auroc,
        "aupr_out_balanced": auroc,
        "detection_error": (1 - auroc) / 2,
        "n_id": 50,
        "n_ood": 40,
    }


def write_scores(path, names):
    generator = np.random.default_rng(0)
    scores = {
        f"{name}.{s}": generator.normal(size=50) + (s != "digits") for name in names for s in ["digits", *OOD]
    }
    save_tensors(path, scores, kind="scores", metadata={})


@pytest.fixture
def run(tmp_path):
    """Write results of two models, two seeds and one ensemble; return a function that summarises them."""
    values = {
        ("simclr", "knn"): 0.9,
        ("simclr", "ssd"): 0.8,
        ("scratch", "knn"): 0.6,
        ("scratch", "ssd"): 0.4,
    }
    for seed in (0, 1):
        for stage, detector in (("posthoc", "knn"), ("ssd", "ssd"), ("ssdk", "ssdk")):
            models = {
                model: {
                    detector: {
                        s: metrics(values.get((model, detector), 0.7) + 0.02 * seed + 0.01 * (s == "blobs"))
                        for s in OOD
                    }
                }
                for model in ("simclr", "scratch")
            }
            save_json(tmp_path / f"results/{stage}/{seed}.json", {"models": models, "chosen": {}})
            write_scores(tmp_path / f"scores/{stage}/{seed}.safetensors", [f"{m}.{detector}" for m in models])
        probes = {"knn": {"accuracy": 0.9 + 0.02 * seed, "k": 5}, "linear": {"accuracy": 0.5}}
        save_json(tmp_path / f"results/probe/{seed}.json", {"models": {"simclr": probes, "scratch": probes}})
    ensemble = {"leaveout_wrn": {"eloc": {s: metrics(0.99) for s in OOD}}}
    save_json(
        tmp_path / "results/ensemble/wrn.json", {"models": ensemble, "accuracy": {"leaveout_wrn": 0.97}}
    )
    write_scores(tmp_path / "scores/ensemble/wrn.safetensors", ["leaveout_wrn.eloc"])
    save_text(tmp_path / "curves/simclr-0.csv", "epoch,loss,knn\n1,2.0,\n2,1.5,0.5\n3,1.2,\n4,1.0,0.9\n")
    lines = [f"  {name}: {{role: {role}}}" for name, role in SETS.items()]
    empty = "objectives: [], inits: [], energy_inits: [], energy_modes: [], stochastic_seeds: []"
    empty += ", network_models: []"
    runs = f"runs: {{seeds: [0, 1], architectures: [wrn], {empty}}}"
    save_text(tmp_path / "params.yaml", "sets:\n" + "\n".join(lines) + f"\n{runs}\n")

    def summarise(*, out="metrics", id_name="digits", models=("simclr", "scratch")):
        options = [
            "--id",
            id_name,
            "--sets",
            f"{tmp_path}/params.yaml:sets",
            "--runs",
            f"{tmp_path}/params.yaml:runs",
        ]
        options += [part for model in models for part in ("--models", model)]
        options += [
            "--results",
            f"{tmp_path}/results",
            "--scores",
            f"{tmp_path}/scores",
        ]
        options += ["--curves", f"{tmp_path}/curves", "--out_metrics", f"{tmp_path}/{out}"]
        return CliRunner().invoke(main, [*options, "--out_report", f"{tmp_path}/{out}_report"])

    return summarise


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
    assert "| `knn` | 91.0 / 91.5 | 61.0 / 61.5 |" in table
    assert "| `ssd` | 81.0 / 81.5 | 41.0 / 41.5 |" in table
    assert "**99.0** / **99.0**" in table
    assert "| `simclr` | 91.0 ± 1.4 | 50.0 ± 0.0 | – |" in table
    per_set = (tmp_path / "metrics/per_set.md").read_text().splitlines()
    assert per_set[4].startswith("| `leaveout_wrn` | `eloc` | 99.0 / 1.0 |")  # best first
    assert "91.0 ± 1.4 / 9.0 ± 1.4" in per_set[5]


def test_the_page_is_whole_and_needs_no_network(run, tmp_path):
    run()
    html = (tmp_path / "metrics_report/index.html").read_text()
    assert html.count("<svg") == html.count("</svg>") == 2
    assert not re.search(r'(src|href)="(?!#)', html.replace('xlink:href="#', ""))
    drawing = html.split("<svg")[2]  # kNN accuracies, measured in every second epoch, are joined by a line
    assert len(re.findall(r'<path d="M [\d.]+ [\d.]+ \nL [\d.]+ [\d.]+ \n" clip-path', drawing)) == 1
    for word in ("simclr", "eloc", "held", "knn", "</html>"):
        assert word in html


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
