"""Published figures: the data against what it states itself, and our results beside it."""

import csv
import re
from io import StringIO
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from sslood.core.errors import InputError
from sslood.core.files import save_text
from sslood.data.sets.source import all_sources
from sslood.report.beside import Networks, compared, read_choices
from sslood.report.cells import Code, Table
from sslood.report.columns import DECISIONS, METRICS
from sslood.report.latex import latex
from sslood.report.published_figures import PROTOCOL, published_sources, read_source
from sslood.report.published_tables import as_csv, parts, write_published
from tests.kit.summarised import written

SOURCES = [read_source(name) for name in published_sources()]
CLASSIFYING = {"head", "error", "knn", "linear", "ece"}
# test sets that this project has no source for
ELSEWHERE = {
    "lsun",
    "lsun_fix",  # of CSI: other scenes than our lsun_resize_fixed
    "sun",
    "imagenet_o",
    "ssb_hard",
    "ninco",
    "inaturalist",
    "openimage_o",
    "other_classes",
    "",
}
KNOWN = set(all_sources()) | ELSEWHERE
NETWORKS = Networks("wideresnet", {"wideresnet": {"depth": 40, "width": 2, "dropout": 30}}, {})


@pytest.mark.parametrize("source", SOURCES, ids=published_sources())
def test_a_source_says_what_it_measures_and_what_it_had_seen(source):
    assert source.link.startswith("https://") and source.title and source.origin
    for definition in source.metrics.values():
        assert definition.means
        assert definition.ours is None or definition.ours in METRICS | DECISIONS | dict.fromkeys(CLASSIFYING)
    used = {flag for row in source.rows for flag in row.flags}
    assert used == set(source.protocol) and used <= set(PROTOCOL)
    published = {row.model for row in source.rows}
    assert set(source.models) <= published
    assert source.rows or source.origin.startswith("no figures: ")
    for row in source.rows:
        assert row.values and row.id and row.network and row.model
        assert bool(row.set) == any(source.metrics[name].ours not in CLASSIFYING for name in row.values)
        assert all(0 <= value.mean <= 1 for value in row.values.values())
        assert set(source.sets_of(row)) <= KNOWN
    keys = [
        (row.id, row.network, row.model, row.detector, row.set, row.what, *row.values) for row in source.rows
    ]
    assert len(set(keys)) == len(keys)


def test_a_column_that_compares_fpr95_says_which_side_is_positive():
    for source in SOURCES:
        for name, definition in source.metrics.items():
            if name.startswith("fpr"):
                side = {"fpr95_id": "ID positive", "fpr95_ood": "OOD positive"}[definition.ours]
                assert definition.means.endswith(side) or f"; {side}" in definition.means, source.name


def test_means_over_sets_are_those_of_the_sets():
    """The sources print both; means round to two decimals."""
    compared_means = 0
    for source in SOURCES:
        figures = {
            (row.id, row.network, row.model, row.detector, row.what, row.set, name): 100 * value.mean
            for row in source.rows
            for name, value in row.values.items()
        }
        for (*key, group, name), mean in figures.items():
            parts_of = [figures.get((*key, one, name)) for one in source.groups.get(group, ())]
            if parts_of and None not in parts_of:
                assert mean == pytest.approx(np.mean(parts_of), abs=0.0051), (source.name, key, group)
                compared_means += 1
    # kNN and CIDER: 2 metrics; OpenOOD: 2 systems x near, far x 2 metrics, and 4 detectors' far AUROC
    assert compared_means == 2 + 2 + 8 + 4


@pytest.mark.parametrize(
    ("source", "metric", "id_images", "ood_images"),
    [("energy_ood", "aupr_in", 10_000, 2_000), ("outlier_exposure", "aupr_out", 10_000, 2_000)],
)
def test_what_a_random_score_has_follows_from_the_sizes(source, metric, id_images, ood_images):
    means = read_source(source).metrics[metric].means
    positives = id_images if metric == "aupr_in" else ood_images
    assert f"{100 * positives / (id_images + ood_images):.1f}" in means


def test_what_a_random_score_of_ssd_has_follows_from_the_sizes():
    counts = {"cifar100": 10_000, "svhn": 26_032, "textures": 5_640}
    levels = [f"{100 * n / (n + 10_000):.1f}" for n in counts.values()]
    assert re.findall(r"(\d+\.\d) \(", read_source("ssd").metrics["aupr_out"].means) == levels


def summary_of(values, id_name="cifar10", roles=None, accuracy=None):
    """Return what `compared` reads of a summary, from {(model, detector, seed, set): auroc}."""
    rows = pd.DataFrame(
        [
            {
                "model": m,
                "detector": d,
                "seed": s,
                "set": n,
                "auroc": v,
                "fpr95_id": 1 - v,
                "fpr95_ood": v / 2,
                "n_ood": 1200,
            }
            for (m, d, s, n), v in values.items()
        ]
    )
    names = dict.fromkeys(rows["set"], "far")
    none = pd.DataFrame(columns=["model", "seed"])
    return SimpleNamespace(
        id=id_name, rows=rows, roles=roles or names, mistakes=none,
        accuracy=none if accuracy is None else accuracy,
    )  # fmt: skip


SETS = {"cifar10": {"role": "id", "source": "cifar10"}}
SETS |= {name: {"role": "far", "source": name} for name in ("textures", "svhn", "isun")}
SETS["numbers"] = SETS.pop("svhn")
MSP = {
    ("classifier_scratch", "msp", seed, name): value + seed / 100
    for seed in (0, 1)
    for name, value in (("textures", 0.90), ("numbers", 0.80))
}


def lines_of(source, values=MSP, choices=None, networks=NETWORKS, sets=SETS, **more):
    found = compared(summary_of(values, **more), sets, choices or {}, networks)
    return [line for line in found if line.source.name == source]


def test_a_mean_is_over_the_sets_that_are_there_and_says_so():
    (line,) = lines_of("energy_ood")
    assert (line.model, line.detector, line.row.set) == ("classifier_scratch", "msp", "six")
    # (0.90 + 0.80) / 2 and the same a hundredth higher
    assert line.ours["auroc"] == pytest.approx((0.855, 0.01 / 2**0.5, 2))
    assert line.ours["fpr95"].mean == pytest.approx(1 - 0.855)  # ID positive there
    assert line.images == 2 * 1200
    assert "aupr_in" not in line.ours  # of 5 to 1 images, which ours are not
    assert line.differs[0] == (
        "mean over 6 sets, ours over 2, without places365, lsun_crop, lsun_resize, isun"
    )
    assert any("2,000 drawn from each OOD set" in text for text in line.differs)
    (other,) = lines_of("outlier_exposure")
    assert other.ours["fpr95"].mean == pytest.approx(0.855 / 2)  # OOD positive there


def test_a_seed_without_all_sets_does_not_count():
    values = dict(MSP) | {("classifier_scratch", "msp", 2, "textures"): 0.5}
    (line,) = lines_of("energy_ood", values)
    assert line.ours["auroc"].seeds == 2 and line.ours["auroc"].mean == pytest.approx(0.855)


def test_another_network_is_named():
    def first(model, networks):
        values = {(model, *key[1:]): value for key, value in MSP.items()}
        return lines_of("energy_ood", values, {"energy_ood": {model: "classifier"}}, networks)[0].differs[0]

    small = Networks("resnet", {"resnet": {"depth": 20, "width": 16}, "densenet": {"depth": 10}}, {})
    assert first("classifier_scratch", small) == "network wideresnet-40-2-30, ours resnet-20-16"
    assert first("leaveout_plain_densenet", small) == "network wideresnet-40-2-30, ours densenet-10"
    adopted = Networks("resnet", {}, {"wrn": {"architecture": "wideresnet-40-2-30"}})
    assert first("energy_full_wrn", adopted).startswith("mean over 6 sets")
    torchvision = Networks("resnet", {}, {"byol": {"architecture": "resnet50-imagenet"}})
    assert first("byol", torchvision).endswith("ours torchvision_resnet-50-imagenet")


def test_names_of_ours_stand_for_published_ones():
    values = {("resnet20", detector, 0, "textures"): 0.7 for detector in ("msp", "energy", "max_logit")}
    choices = {"energy_ood": {"resnet20": "classifier", "resnet20.max_logit": "energy.energy"}}
    found = [
        (line.detector, line.row.model, line.row.detector) for line in lines_of("energy_ood", values, choices)
    ]
    assert found == [
        ("msp", "classifier", "msp"),
        ("energy", "classifier", "energy"),
        ("max_logit", "energy", "energy"),
    ]
    assert not lines_of("energy_ood", values)


def test_errors_of_a_classifier_are_compared():
    accuracy = pd.DataFrame({"model": ["classifier_scratch"] * 2, "seed": [0, 1], "head": [0.94, 0.96]})
    found = lines_of("outlier_exposure", accuracy=accuracy)
    (line,) = [line for line in found if not line.row.set]
    assert line.ours["error"] == pytest.approx((0.05, 0.02 / 2**0.5, 2))
    assert line.row.values["error"].text == "5.16"


def test_other_tasks_are_not_compared():
    assert not compared(summary_of(MSP, id_name="textures"), SETS, {}, NETWORKS)
    assert compared(summary_of(MSP), SETS, {}, NETWORKS)
    assert not compared(summary_of(MSP), SETS, {}, NETWORKS, ["cat"])  # also without a set of its images
    derived = {name: entry | {"derive": "corruptions"} for name, entry in SETS.items() if name != "cifar10"}
    assert not compared(summary_of(MSP), SETS | derived, {}, NETWORKS)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{openod: {a: b}}", "no published source 'openod'"),
        ("{ssd: simclr}", "published.ssd: must map names of ours to published ones, found 'simclr'"),
        (
            "{ssd: {mine: simclear}}",
            "published.ssd.mine: nothing published is called 'simclear' (did you mean",
        ),
        ("{ssd: {mine: [simclr]}}", "published.ssd.mine: nothing published is called ['simclr']"),
        ("{ssd: {mine: simclr.knn}}", "nothing published is called 'simclr.knn'"),
    ],
)
def test_a_wrong_choice_is_named(tmp_path, section, message):
    save_text(tmp_path / "params.yaml", f"published: {section}\n")
    with pytest.raises(InputError) as caught:
        read_choices(f"{tmp_path}/params.yaml:published")
    assert message in str(caught.value)


def test_csv_holds_every_figure_as_a_fraction():
    lines = compared(summary_of(MSP), SETS, {}, NETWORKS)
    rows = list(csv.DictReader(StringIO(as_csv(lines))))
    assert len(rows) == sum(len(line.row.values) for line in lines)
    for row in rows:
        printed = [one for one in read_source(row["source"]).rows if row["metric"] in one.values
                   and (one.model, one.detector, one.set) == (row["published_model"], row["published_detector"], row["set"])]  # fmt: skip # noqa: E501
        assert f"{100 * float(row['published']):.2f}" in [
            one.values[row["metric"]].text[:5] for one in printed
        ]
    own = {(row["source"], row["set"], row["metric"]): row["ours"] for row in rows}
    assert float(own["openood_cifar10", "textures", "auroc"]) == pytest.approx(0.905)
    assert own["energy_ood", "six", "aupr_in"] == ""


def test_notes_explain_every_letter():
    for part in parts(compared(summary_of(MSP), SETS, {}, NETWORKS)):
        column = [str(row[-1]).split(", ") for row in part.table.rows]
        assert {letter for letters in column for letter in letters} == set(part.notes)
        assert all(len(row) == len(part.table.header) for row in part.table.rows)
        assert set(part.table.header[3:-1]) == set(part.meanings)


def test_latex_prints_names_as_they_are():
    table = Table(["detector", "a_b"], [[Code("x_y & 5 %"), "90.9 ± 0.2 / –"]])
    assert latex(table).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"detector & a\_b \\",
        r"\midrule",
        r"x\_y \& 5 \% & 90.9 $\pm$ 0.2 / -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert r"\textbackslash{}" in latex(Table(["\\{"], [])) and r"\{" in latex(Table(["\\{"], []))


def test_the_stage_writes_what_can_be_compared(tmp_path):
    run, params = written(tmp_path), tmp_path / "params.yaml"
    text = params.read_text()
    with_sources = text.replace("digits: {role: id}", "digits: {role: id, source: cifar10}").replace(
        "noise: {role: far}", "noise: {role: far, source: textures}"
    )
    save_text(params, with_sources)
    done = run()
    assert done.exit_code == 0, done.output
    table = (tmp_path / "metrics/published.md").read_text()
    # ssd of simclr on noise: 0.80 and 0.82
    assert (
        "| simclr · ssd | simclr · ssd | textures (40) | 19.0 ± 1.4 / 14.65 | 81.0 ± 1.4 / 97.61 |" in table
    )
    assert "Ours: 1,200 train, 40 validation, 50 test images of 4 pixels." in table
    assert "network torchvision_resnet-50, ours resnet-8-16" in table
    tex = (tmp_path / "metrics/published.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == table.count("\n## ")
    assert "Beside published figures" in (tmp_path / "metrics_report/index.html").read_text()
    write_published(tmp_path / "metrics", [], [], "")
    assert not list((tmp_path / "metrics").glob("published.*")) and (tmp_path / "metrics/table.md").is_file()
