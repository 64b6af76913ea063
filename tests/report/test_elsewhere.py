"""Published tables whose data are not ours: our rows above, the published ones below, flagged."""

import csv
from io import StringIO

import pandas as pd
import pytest

from sslood.cli.sections import fitting, options_of
from sslood.core.errors import InputError
from sslood.report.beside import compared, described
from sslood.report.elsewhere import OTHER, read_sources, with_sources
from sslood.report.published_figures import read_source
from sslood.report.published_tables import as_csv, parts
from stages.summarize import main
from tests.kit.summarised import written
from tests.report.test_published import MSP, NETWORKS, SETS, summary_of

OTHERS = {"letters": {"role": "id", "source": "letters"}, "noise": {"role": "far", "source": "gaussian"}}
SSD = {("simclr", "ssd", seed, "noise"): 0.9 + seed / 100 for seed in (0, 1)}


def shown(names, values=SSD, sets=OTHERS, id_name="letters", choices=None, **more):
    summary, chosen = summary_of(values, id_name=id_name, **more), choices or {}
    lines = compared(summary, sets, chosen, NETWORKS)
    return with_sources(lines, names, summary, chosen, NETWORKS)


def test_other_data_stand_below_our_rows_and_say_so():
    ours, *theirs = shown(["ssd"])
    assert described(ours) == ("simclr · ssd", "–", "letters: noise (1,200)")
    assert ours.ours["auroc"] == pytest.approx((0.905, 0.01 / 2**0.5, 2)) and OTHER not in ours.differs
    assert ours.differs == ["network wideresnet-40-2-30"]
    assert [described(line) for line in theirs][1] == ("–", "simclr · ssd", "cifar10: svhn")
    assert len(theirs) == len(read_source("ssd").rows)
    assert all(line.differs[0] == OTHER and not line.ours for line in theirs)
    assert any("the test split" in text for text in theirs[0].differs)
    assert not shown([])


def test_names_of_ours_count_on_other_data_too():
    values = {("mine", "ssd", 0, "noise"): 0.7}
    assert shown(["ssd"], values)[0].row.model == "simclr"  # nothing of ours stands for it
    first = shown(["ssd"], values, choices={"ssd": {"mine": "simclr"}})[0]
    assert (first.model, first.ours["auroc"].mean) == ("mine", 0.7)


def test_what_is_compared_is_not_repeated():
    lines = [line for line in shown(["energy_ood"], MSP, SETS, "cifar10") if line.source.name == "energy_ood"]
    beside, *others = lines
    assert (beside.model, beside.row.set) == ("classifier_scratch", "six")
    assert {line.model for line in others} == {""} and len(lines) == len(read_source("energy_ood").rows)


def test_errors_of_a_classifier_have_a_row_of_ours():
    accuracy = pd.DataFrame({"model": ["classifier_byol"], "seed": [0], "head": [0.94]})
    ours, *theirs = shown(["ssl_ood"], accuracy=accuracy)
    assert described(ours) == ("classifier_byol", "–", "letters: ID")
    assert ours.ours["error"].mean == pytest.approx(0.06)
    assert described(theirs[0]) == ("–", "classifier_byol (best epoch)", "cifar10: ID")


def test_a_table_has_one_side_in_each_cell():
    lines = shown(["ssd"])
    (part,) = parts(lines, read_sources(["ssd"]))
    assert part.table.rows[0][3:6] == ["9.5 ± 0.7 / –", "90.5 ± 0.7 / –", "–"]
    assert part.table.rows[1][3:6] == ["– / 50.78", "– / 90.63", "– / 89.20"]
    assert OTHER in part.notes.values()
    rows = list(csv.DictReader(StringIO(as_csv(lines))))
    assert [row["published"] for row in rows if row["ours"]] == ["", ""]
    assert [row["ours"] for row in rows if row["published"]] == [""] * 13
    assert {row["id"] for row in rows if row["published"]} == {"cifar10"}


def test_an_unknown_source_is_named_with_those_there_are():
    with pytest.raises(InputError, match="unknown published source 'sdd'; known: cider, "):
        read_sources(["sdd"])
    with pytest.raises(InputError) as caught:
        fitting(options_of(main), "params.yaml:summarize.sources", "sources", ["sdd"])
    said = "params.yaml:summarize.sources: unknown name 'sdd' (did you mean 'ssd'?); known: cider, "
    assert str(caught.value).startswith(said)


def test_the_stage_shows_sources_that_are_named_even_without_figures(tmp_path):
    done = written(tmp_path)(sources=("ssd", "stochastic"))
    assert done.exit_code == 0, done.output
    table = (tmp_path / "metrics/published.md").read_text()
    assert "| simclr · ssd | – | digits: noise (40) | 19.0 ± 1.4 / – | 81.0 ± 1.4 / – |" in table
    assert "| – | simclr · ssd | cifar10: svhn | – / 2.07 |" in table and f": {OTHER}" in table
    assert "no figures: the repository" in table.split("\n## ")[-1]
    page = (tmp_path / "metrics_report/index.html").read_text()
    assert "Beside published figures" in page and OTHER in page and "no figures: the repository" in page
    tex = (tmp_path / "metrics/published.tex").read_text()
    assert tex.count(r"\begin{tabular}") == 1 and "\n% Janiak" in tex and OTHER in tex
