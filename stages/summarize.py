"""Tables, metrics and the report page from the results of all evaluations.

Writes metrics/ood/<model>.<detector>.json and metrics/accuracy/<model>.json (the DVC metrics: few,
stable keys, what `dvc metrics diff` shows), metrics/summary.json and results.csv (everything),
table.md and per_set.md (for people), report/index.html. Runs in seconds and needs no GPU.
"""

from pathlib import Path

import click

from sslood.cli.command import StageCommand, done
from sslood.core.settings import read_section, strict
from sslood.core.threads import blas_threads
from sslood.report.audit import read_audit, with_audit
from sslood.report.mistakes import mistakes
from sslood.report.results import Runs, accuracies, collect, result_files
from sslood.report.sections import read_curves, write_report
from sslood.report.significance import with_significance
from sslood.report.summary import INFORMED, Findings, write_metrics, write_tables
from sslood.roles.roles import roles_of

FOLDER = click.Path(path_type=Path)


@click.command(cls=StageCommand)
@click.option("--id", "id_name", required=True, help="Name of the ID set.")
@click.option("--sets", required=True, help="FILE:KEY of the sets and their roles.")
@click.option("--runs", required=True, help="FILE:KEY of what is run.")
@click.option("--models", required=True, multiple=True, help="Models that are evaluated.")
@click.option("--results", required=True, type=FOLDER, help="Folder of results.")
@click.option("--scores", required=True, type=FOLDER, help="Folder of scores.")
@click.option("--curves", required=True, type=FOLDER, help="Folder of training curves.")
@click.option("--folder", required=True, type=FOLDER, help="Folder of the image sets.")
@click.option("--audit", required=True, type=FOLDER, help="Audit of the image sets.")
@click.option("--margin", required=True, type=click.FloatRange(0, 1), help="AUROC above the control to mark.")
@click.option("--out_metrics", required=True, type=FOLDER)
@click.option("--out_report", required=True, type=FOLDER)
def main(
    id_name, sets, runs, models, results, scores, curves, folder, audit, margin, out_metrics, out_report
) -> None:
    """Summarise all evaluations."""
    chosen = strict(Runs, read_section(runs), runs)
    roles, _ = roles_of(read_section(sets), id_name, sets)
    files = result_files(results, chosen)
    audited = read_audit(audit, [id_name, *roles])
    with blas_threads(0):  # many tests on few numbers each
        rows = with_significance(collect(files, roles), scores, id_name, INFORMED)
    rows = with_audit(rows, scores, audited)
    probes = [(seed, results / "probe" / f"{seed}.json") for seed in chosen.seeds]
    accuracy = accuracies(probes, [path for stage, _, path in files if stage == "ensemble"])
    found = Findings(id_name, rows, accuracy, mistakes(probes), audited, margin, roles)
    write_metrics(out_metrics, found)
    write_tables(out_metrics, found)
    write_report(out_report, found, scores, folder, read_curves(curves, models, chosen.seeds[0]))
    count = rows["model"].nunique()
    done(out_report, f"{len(rows)} results of {count} models; the tables are in {out_metrics}")


if __name__ == "__main__":
    main()
