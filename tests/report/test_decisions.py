"""Decisions, full-spectrum metrics and AURC with OOD images in the tables, from made-up scores."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency
from sklearn.metrics import roc_auc_score

from sslood.core.files import load_json, load_tensors, save_json, save_tensors
from sslood.report.columns import ALARMS, BY_CLASS, describe
from sslood.report.decisions import read_known
from sslood.report.frame import ScoreFiles, read_runs
from sslood.report.page import HeadlineSettings, write_tables
from sslood.report.summary import summarise, write_metrics
from tests.kit.summarised import CLASSES, LABELS, OOD, SETS, written


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The summary of made-up results: 50 images a set, 40 of ID validation, alpha 0.1."""
    folder = tmp_path_factory.mktemp("summary")
    run = written(folder)
    done = run()
    assert done.exit_code == 0, done.output
    return folder


def tables(folder, *, alpha=0.1, shifted=("dusk",)):
    """Write metrics and tables without the page, whose drawings take long; return decisions.md."""
    known = read_known(folder / "sets", "digits", shifted)
    roles = {name: role for name, role in SETS.items() if name in OOD}
    places = (
        folder / "results",
        ScoreFiles(folder / "scores", "digits"),
        read_runs(f"{folder}/params.yaml:runs"),
    )
    summary = summarise(*places, roles, folder / "audit.safetensors", 0.02, known, alpha)
    write_metrics(folder / "metrics", summary)
    write_tables(folder / "metrics", summary, HeadlineSettings(("simclr",), ("knn",)))
    return (folder / "metrics/decisions.md").read_text()


def results(folder):
    return pd.read_csv(folder / "metrics/results.csv")


def alarms(folder):
    return pd.read_csv(folder / "metrics/alarms.csv", dtype={"seed": int})


def scores_of(folder, row):
    (path,) = (folder / "scores" / row["stage"]).glob(
        f"*{'' if row['stage'] == 'ensemble' else row['seed']}.*"
    )
    found, _ = load_tensors(path, kind="scores")
    prefix = f"{row['model']}.{row['detector']}."
    return {key.removeprefix(prefix): array for key, array in found.items() if key.startswith(prefix)}


def test_full_spectrum_counts_the_shifted_set_as_id(folder):
    for row in results(folder).to_dict("records"):
        if row["detector"] == "ssdk":  # has seen the OOD set, and scores no other
            assert np.isnan(row["full_auroc"]) and np.isnan(row["flagged"]) and np.isnan(row["false_alarms"])
            continue
        found = scores_of(folder, row)
        inside, outside = np.append(found["digits"], found["dusk"]), found[row["set"]]
        truth, together = np.repeat([0, 1], [100, 50]), np.append(inside, outside)
        assert row["full_auroc"] == pytest.approx(roc_auc_score(truth, together), abs=1e-6)
        threshold = np.sort(inside)[94]
        assert row["full_fpr95_id"] == pytest.approx((outside <= threshold).mean(), abs=1e-6)


def test_what_is_flagged_is_above_the_threshold_of_validation(folder):
    """The ensemble kept no scores of ID validation: its halves of ID test judge each other."""
    for row in results(folder).to_dict("records"):
        found = scores_of(folder, row)
        if row["stage"] in ("posthoc", "ssd"):
            threshold = np.sort(found["digits.validation"])[36]  # ceil(41 * 0.9) = 37
            assert row["flagged"] == pytest.approx((found[row["set"]] > threshold).mean(), abs=1e-6)
            assert row["false_alarms"] == pytest.approx((found["digits"] > threshold).mean(), abs=1e-6)
            assert row["calibrated_on"] == "ID validation"
        elif row["stage"] == "ensemble":
            assert row["calibrated_on"] == "halves of ID test" and 0 < row["false_alarms"] < 0.3


def test_false_alarms_by_class(folder):
    rows = alarms(folder)
    assert not (rows["detector"] == "ssdk").any() and set(rows["set"]) == {"digits", "dusk"}
    for row in rows[rows["stage"] == "ssd"].to_dict("records"):
        found = scores_of(folder, row)
        flags = found[row["set"]] > np.sort(found["digits.validation"])[36]
        assert row["images"] == 50 and row["flagged"] == pytest.approx(flags.mean(), abs=1e-6)
        shares = [flags[LABELS == label].mean() for label in range(5)]
        assert [row[f"{BY_CLASS}{name}"] for name in CLASSES] == pytest.approx(shares, abs=1e-6)
        assert row["spread"] == pytest.approx(np.std(shares, ddof=1), abs=1e-6)
        table = [[flags[LABELS == k].sum(), (~flags)[LABELS == k].sum()] for k in range(5)]
        assert row["p_equal"] == pytest.approx(chi2_contingency(table).pvalue, abs=1e-6)
        if row["set"] == "dusk":
            truth = np.repeat([0, 1], 50)
            expected = roc_auc_score(truth, np.append(found["digits"], found["dusk"]))
            assert row["auroc"] == pytest.approx(expected, abs=1e-6)
        else:
            assert np.isnan(row["auroc"])


def test_aurc_with_ood_images_is_there_for_classifiers(folder):
    """Predicted classes are kept by `posthoc` alone, and serve the other stages of the model too."""
    wrong = np.arange(50) % 10 == 3
    for row in results(folder).to_dict("records"):
        if row["model"] != "simclr":
            assert np.isnan(row["aurc_ood"]) and np.isnan(row["eaurc_ood"])
            continue
        found = scores_of(folder, row)
        inside = found.get(f"digits.{row['set']}", found["digits"])
        outside = found[row["set"]]
        order = np.sort(np.append(inside, outside))
        accepted = np.array([(inside <= t).mean() + (outside <= t).mean() for t in order])
        failed = np.array([(wrong & (inside <= t)).mean() + (outside <= t).mean() for t in order])
        area = (np.diff(accepted, prepend=0) * failed / accepted).sum() / 2
        assert row["aurc_ood"] == pytest.approx(area, abs=1e-6)
        assert 0 <= row["eaurc_ood"] < row["aurc_ood"]


def test_the_tables_show_the_best_of_each_model(folder):
    text = (folder / "metrics/decisions.md").read_text()
    assert "made to flag 10.0 % of ID" in text
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| `")}
    assert {"`leaveout_wrn`", "`simclr`", "`scratch`"} <= set(lines)
    head, _, *rows = (line for line in text.splitlines() if line.startswith("|"))
    titles = ["model", "detector", "threshold from", "digits", "fewest", "most", "spread", "p of equality"]
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [*titles, "dusk", "near", "far"]
    cells = [cell.strip() for cell in next(row for row in rows if "`simclr` | `knn`" in row).split("|")]
    own = alarms(folder).query("model == 'simclr' and detector == 'knn' and set == 'digits'")
    assert cells[3] == "ID validation"
    assert cells[4] == f"{100 * own['flagged'].mean():.1f} ± {100 * own['flagged'].std():.1f}"
    means = own[[f"{BY_CLASS}{name}" for name in CLASSES]].mean()
    assert cells[6].startswith(f"{100 * means.max():.1f} (") and cells[5].startswith(
        f"{100 * means.min():.1f} ("
    )
    near = results(folder).query("model == 'simclr' and detector == 'knn' and set == 'held'")["flagged"]
    assert cells[10] == f"{100 * near.mean():.1f} ± {100 * near.std():.1f}"
    assert "full: with the test images of the shifted sets counted as ID" in text
    page = (folder / "metrics_report/index.html").read_text()
    for title in ("Decisions at one threshold", "ID under shift", "Mistakes and OOD images together"):
        assert f"{title}</h2>" in page
    assert "**" not in page


def test_all_detectors_stand_in_the_long_tables_with_the_best_in_bold(folder):
    """Near is one set, far the mean of two; the best counts over all models, without ssdk."""
    text = (folder / "metrics/decisions.md").read_text()
    found = results(folder)
    for title, metric, pick in (
        ("All detectors, near / far, full spectrum:", "full_auroc", max),
        ("All detectors: share of near", "flagged", max),
        ("Mistakes and OOD images together", "aurc_ood", min),
    ):
        values = found.groupby(["model", "detector", "role", "seed"])[metric].mean()
        values = (100 * values.groupby(level=[0, 1, 2]).mean()).dropna()
        top = {
            role: pick(part.drop("ssdk", level=1, errors="ignore")) for role, part in values.groupby(level=2)
        }
        section = text.split(title)[1].split("\n\n\n")[0]
        for model, detector in {key[:2] for key in values.index}:
            table = next(part for part in section.split("\n\n") if f"`{model}`" in part.split("\n")[0])
            head, _, *rows = table.splitlines()
            place = [cell.strip() for cell in head.split("|")].index(f"`{model}`")
            (row,) = [row for row in rows if f"| `{detector}` |" in row]
            cells = row.split("|")[place].strip().split(" / ")
            for cell, role in zip(cells, ("near", "far"), strict=True):
                value = values[model, detector, role]
                assert cell.strip("*") == f"{value:.1f}"
                assert ("*" in cell) == (f"{value:.1f}" == f"{top[role]:.1f}" and detector != "ssdk")


def test_the_proposed_detector_is_shown_beside_the_best(tmp_path):
    written(tmp_path)
    for seed in (0, 1):
        path = tmp_path / f"results/posthoc/{seed}.json"
        found = load_json(path)
        for model in ("simclr", "scratch"):
            found["models"][model]["auto"] = found["models"][model]["knn"]
        save_json(path, found)
        path = tmp_path / f"scores/posthoc/{seed}.safetensors"
        arrays, _ = load_tensors(path)
        arrays = dict(arrays) | {k.replace(".knn.", ".auto."): v for k, v in arrays.items() if ".knn." in k}
        save_tensors(path, arrays, kind="scores", metadata={})
    text = tables(tmp_path)
    assert "| `simclr` | `knn` |" in text and "| `simclr` | `auto` |" in text


def test_without_a_shifted_set_nothing_is_said_of_shift(folder, tmp_path):
    """The other columns hold the same numbers as with it."""
    written(tmp_path)
    assert "full" not in tables(tmp_path, shifted=()).split("The columns of alarms.csv")[0]
    found = results(tmp_path)
    assert "full_auroc" not in found and set(alarms(tmp_path)["set"]) == {"digits"}
    pd.testing.assert_frame_equal(found, results(folder)[found.columns])


def test_too_few_images_for_a_threshold_are_said_so(tmp_path):
    written(tmp_path)
    assert tables(tmp_path, alpha=0.01).startswith("Too few images for a threshold that flags 1.0 % of ID")
    assert "flagged" not in results(tmp_path) and alarms(tmp_path).empty


def relabel(folder, labels, classes):
    for name in ("digits", "dusk"):
        path = folder / f"sets/{name}.safetensors"
        save_tensors(path, {"test.labels": labels}, kind="set", metadata={"classes": classes})


def test_only_the_worst_of_many_classes_are_shown(tmp_path):
    written(tmp_path)
    relabel(tmp_path, np.arange(50), [f"c{number}" for number in range(50)])
    text = tables(tmp_path)
    assert "False alarms by ID class, in %: of 50 classes the 12 with most." in text


def test_unlabelled_images_have_decisions_and_no_classes(tmp_path):
    written(tmp_path)
    relabel(tmp_path, np.full(50, -1), [])
    text = tables(tmp_path)
    assert "False alarms by ID class" not in text and "| ID validation |" in text
    assert "aurc_ood" not in results(tmp_path)


def test_every_column_is_described(folder):
    assert [name for name in results(folder) if not describe(name)] == []
    text = (folder / "metrics/decisions.md").read_text()
    for name in set(alarms(folder)) - {"stage", "model", "detector", "seed", "calibrated_on"}:
        assert f"- `{name if name in ALARMS else BY_CLASS + '<class>'}`: " in text


def test_scores_of_other_images_are_named(tmp_path):
    run = written(tmp_path)
    path = tmp_path / "sets/dusk.safetensors"
    arrays, about = load_tensors(path)
    save_tensors(path, {"test.labels": np.array(arrays["test.labels"][:20])}, kind="set", metadata=about)
    assert "50 scores for 20 test images of 'dusk'; run `dvc repro`" in run().stderr
    path.unlink()
    assert "dusk.safetensors: no such file; run `dvc repro download`" in run().stderr
    assert [run(alpha=alpha).exit_code for alpha in ("0", "1", "-1")] == [2, 2, 2]
