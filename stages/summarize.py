"""Summarise all evaluations as metrics, tables and the report page.

Writes metrics/ood/<model>.<detector>.json and metrics/accuracy/<model>.json (the DVC metrics: few, stable
keys, which `dvc metrics diff` shows), summary.json, results.csv, alarms.csv, tables (metrics/*.md), also
published.* where there are figures to compare or `sources` names some, and report/index.html. Takes seconds.
"""

from pathlib import Path

import click

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, section_option, setting_options
from sslood.cli.sections import Names
from sslood.core.settings import read_section
from sslood.data.sets.roles.roles import roles_of, shifted_sets
from sslood.report.beside import Networks, compared, read_choices
from sslood.report.decisions import read_known
from sslood.report.elsewhere import read_sources, with_sources
from sslood.report.frame import ScoreFiles, read_runs
from sslood.report.outliers import read_trained
from sslood.report.page import HeadlineSettings, read_curves, write_page, write_tables
from sslood.report.published_figures import published_sources
from sslood.report.published_tables import about_ours, parts, write_published
from sslood.report.summary import summarise, write_metrics

FOLDER = click.Path(path_type=Path)
SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
MARGIN = click.FloatRange(0, 1)
SOURCES = "Published source whose table is shown also where its data differ; may be repeated."


@click.command(cls=StageCommand)
@click.option("--id", "id_name", required=True, help="Name of the ID set.")
@click.option("--sets", required=True, help="FILE:KEY of the sets and their roles.")
@section_option("runs", "what is run", lambda where, _: read_runs(where))
@click.option("--models", required=True, multiple=True, help="Model that is evaluated; may be repeated.")
@click.option("--results", required=True, type=FOLDER, help="Folder of results.")
@click.option("--scores", required=True, type=FOLDER, help="Folder of scores.")
@click.option("--curves", required=True, type=FOLDER, help="Folder of training curves.")
@click.option("--folder", required=True, type=FOLDER, help="Folder of the image sets.")
@click.option("--audit", required=True, type=click.Path(path_type=Path), help="Audit of the image sets.")
@click.option("--margin", required=True, type=MARGIN, help="AUROC above the control that is marked.")
@click.option("--alpha", required=True, type=SHARE, help="Share of ID images that may be called OOD.")
@section_option("published", "what stands beside which published figures", lambda at, _: read_choices(at))
@click.option("--backbone", required=True, help="Network of the models that are trained from scratch.")
@click.option("--backbones", required=True, help="FILE:KEY of the sizes of the networks.")
@click.option("--adopted", required=True, help="FILE:KEY of the models from outside.")
@click.option("--sources", multiple=True, type=Names(published_sources()), help=SOURCES)
@setting_options(HeadlineSettings, "headline")
@click.option("--out_metrics", required=True, type=FOLDER, help="Folder of metrics and tables to write.")
@click.option("--out_report", required=True, type=FOLDER, help="Folder of the report page to write.")
def main(
    id_name, sets, runs, models, results, scores, curves, folder, audit, margin, alpha, published, backbone,
    backbones, adopted, sources, out_metrics, out_report, **values
):  # fmt: skip
    chosen = read_runs(runs)
    headline = read_settings(HeadlineSettings, values, "headline", "summarize.headline")
    section = read_section(sets)
    roles, _ = roles_of(section, id_name, sets)
    known = read_known(folder, id_name, shifted_sets(section, sets))
    files = ScoreFiles(scores, id_name)
    summary = summarise(results, files, chosen, roles, audit, margin, known, alpha)
    write_metrics(out_metrics, summary)
    trained = read_trained(results / "energies", runs)
    write_tables(out_metrics, summary, headline, trained)
    networks = Networks(backbone, read_section(backbones), read_section(adopted))
    ours, heldout = about_ours(folder, id_name)
    lines = compared(summary, section, read_choices(published), networks, heldout)
    lines = with_sources(lines, sources, summary, read_choices(published), networks)
    shown = parts(lines, read_sources(sources))
    write_published(out_metrics, lines, shown, ours)
    drawn = read_curves(curves, models, chosen.seeds[0])
    write_page(out_report, summary, files, folder, drawn, trained, shown, ours)
    count = summary.rows["model"].nunique()
    done(out_report / "index.html", f"{len(summary.rows)} results of {count} models, tables in {out_metrics}")


if __name__ == "__main__":
    main()
