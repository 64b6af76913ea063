"""Tables, metrics and the report page from the results of all evaluations.

Writes metrics/ood/<model>.<detector>.json and metrics/accuracy/<model>.json (the DVC metrics: few,
stable keys, what `dvc metrics diff` shows), metrics/summary.json and results.csv (everything),
table.md and per_set.md (for people), report/index.html. Runs in seconds and needs no GPU.
"""

from dataclasses import dataclass
from pathlib import Path

import click

from stages.core.artefacts import save_json
from stages.core.cli import StageCommand, read_section, strict
from stages.core.threads import blas_threads
from stages.ood.imagesets import roles_of
from stages.report.audit import read_audit, with_audit
from stages.report.mistakes import mistakes
from stages.report.results import accuracies, by_group, collect
from stages.report.significance import with_significance
from stages.report.summary import (
    HEADLINE,
    INFORMED,
    Beside,
    nested,
    read_curves,
    score_panels,
    write_metrics,
    write_report,
    write_tables,
)

EVALUATIONS = ("posthoc", "ssd", "ssdk")


@dataclass(frozen=True)
class Runs:
    """The section `runs` of params.yaml: what is run."""

    seeds: tuple[int, ...]
    objectives: tuple[str, ...]
    inits: tuple[str, ...]
    energy_inits: tuple[str, ...]
    energy_modes: tuple[str, ...]
    architectures: tuple[str, ...]
    network_models: tuple[str, ...]
    stochastic_seeds: tuple[int, ...]
    adopted: tuple[str, ...] = ()
    finetune_inits: tuple[str, ...] = ()
    finetune_labels: tuple[float, ...] = ()


def result_files(results: Path, runs: Runs) -> list[tuple[str, int, Path]]:
    """Return (stage, seed, path) of every results file that the params ask for; never a glob."""
    files = [(stage, seed, results / stage / f"{seed}.json") for stage in EVALUATIONS for seed in runs.seeds]
    files += [("stochastic", seed, results / "stochastic" / f"{seed}.json") for seed in runs.stochastic_seeds]
    files += [
        ("network", seed, results / "network" / f"{model}-{seed}.json")
        for model in runs.network_models
        for seed in runs.seeds
    ]
    ensembles = [
        ("ensemble", runs.seeds[0], results / "ensemble" / f"{name}.json") for name in runs.architectures
    ]
    return files + ensembles


@click.command(cls=StageCommand)
@click.option("--id", "id_name", required=True, help="Name of the ID set.")
@click.option("--sets", required=True, help="FILE:KEY of the sets and their roles.")
@click.option("--runs", required=True, help="FILE:KEY of what is run.")
@click.option("--models", required=True, multiple=True, help="Models that are evaluated.")
@click.option("--results", required=True, type=click.Path(path_type=Path), help="Folder of results.")
@click.option("--scores", required=True, type=click.Path(path_type=Path), help="Folder of scores.")
@click.option("--curves", required=True, type=click.Path(path_type=Path), help="Folder of training curves.")
@click.option("--audit", required=True, type=click.Path(path_type=Path), help="Audit of the image sets.")
@click.option(
    "--margin", required=True, type=click.FloatRange(0, 1), help="AUROC above the control that is marked."
)
@click.option("--out_metrics", required=True, type=click.Path(path_type=Path))
@click.option("--out_report", required=True, type=click.Path(path_type=Path))
def main(
    id_name, sets, runs, models, results, scores, curves, audit, margin, out_metrics, out_report
) -> None:
    """Summarise all evaluations."""
    chosen = strict(Runs, read_section(runs), runs)
    roles, _ = roles_of(read_section(sets), id_name, sets)
    files = result_files(results, chosen)
    beside = Beside(read_audit(audit, [id_name, *roles]), margin, roles)
    with blas_threads(0):  # many tests on few numbers each
        rows = with_significance(collect(files, roles), scores, id_name, INFORMED)
    rows = with_audit(rows, scores, beside.audit)
    probes = [(seed, results / "probe" / f"{seed}.json") for seed in chosen.seeds]
    accuracy = accuracies(probes, [path for stage, _, path in files if stage == "ensemble"])
    mistaken = mistakes(probes)
    metrics = [name for name in HEADLINE if name in rows.columns]
    groups = by_group(rows, metrics)
    write_metrics(out_metrics, groups, accuracy)
    save_json(out_metrics / "summary.json", nested(rows, metrics))
    write_tables(out_metrics, rows, groups, accuracy, mistaken, beside)
    panels = score_panels(scores, rows, groups, [id_name, *roles])
    curves = read_curves(curves, models, chosen.seeds[0])
    write_report(out_report, id_name, rows, groups, accuracy, mistaken, panels, curves, beside)
    count = rows["model"].nunique()
    click.echo(
        f"Summarised {len(rows)} results of {count} models: {out_metrics}/table.md, {out_report}/index.html"
    )


if __name__ == "__main__":
    main()
