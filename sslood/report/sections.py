"""The report page, in the order in which one asks: what is best, is it so, which images fool it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from sslood.core.errors import InputError
from sslood.core.files import load_tensors, save_text
from sslood.report import figures, page
from sslood.report.audit import legend, sets_table
from sslood.report.glance import best_of, glance_table
from sslood.report.mistakes import mistakes_frame
from sslood.report.pictures import misleading
from sslood.report.results import over_seeds, scores_file
from sslood.report.significance import LEGEND, interval_notes
from sslood.report.summary import INFORMED, LEFT_OUT, MISTAKES, Findings, accuracy_note
from sslood.report.tables import kindred, percent, probe_name
from sslood.roles.roles import read_split

Section = tuple[str, str, str]  # heading, note, HTML
CELLS = (
    "Cells in %: AUROC ± standard deviation over seeds, then in small print FPR95, the share of OOD accepted "
    "when 95 % of ID is."
)
WANTED = {"loss": "loss", "knn": "kNN accuracy (validation)", "validation_accuracy": "accuracy (validation)"}


def best_detectors(groups: pd.DataFrame) -> dict[str, str]:
    """Return {model: detector} with the highest mean of near and far AUROC, best model first."""
    fair = groups[~groups["detector"].isin(INFORMED)]
    means = fair.groupby(["model", "detector"], sort=False)["auroc"].mean().reset_index()
    best = means.loc[means.groupby("model", sort=False)["auroc"].idxmax()]
    best = best.sort_values("auroc", ascending=False, kind="stable")
    return dict(zip(best["model"], best["detector"], strict=True))


def score_panels(scores: Path, found: Findings) -> dict[str, dict[str, np.ndarray]]:
    """Return {"model · detector": {set: scores}} of the first run of each model's best detector."""
    panels, rows = {}, found.rows
    sets = [found.id, *found.roles]
    for model, detector in best_detectors(found.groups).items():
        first = rows[(rows["model"] == model) & (rows["detector"] == detector)].iloc[0]
        path = scores_file(scores, first["stage"], model, first["seed"])
        tensors, _ = load_tensors(path, kind="scores", only=[f"{model}.{detector}.{key}" for key in sets])
        panels[f"{model} · {detector}"] = {key: tensors[f"{model}.{detector}.{key}"] for key in sets}
    return panels


def read_curves(folder: Path, models: Sequence[str], seed: int) -> dict:
    """Return {model: {column: values}} of the training curves that exist for `seed`."""
    files = {model: folder / f"{model}-{seed}.csv" for model in models}
    return {model: pd.read_csv(path).to_dict("list") for model, path in files.items() if path.is_file()}


def _glance(found: Findings) -> Section:
    signs = {**found.marks(found.by_role, equals=False), **found.marks(found.by_set, equals=False)}
    table = glance_table(
        found.by_role, found.by_set, found.roles, found.control, found.equals, INFORMED, signs
    )
    note = (
        "The model and detector with the highest AUROC on each OOD set, in %, mean ± standard deviation "
        "over seeds. The last column names what is not significantly worse in any seed (paired DeLong test "
        "on the same images, Holm-corrected, 5 %); in a row of means: on every set of the group. Where it is "
        "long the set cannot tell detectors apart. Control: AUROC of one number per image that knows nothing "
        "of its content; † where the best is hardly better."
    )
    return (
        "At a glance",
        note,
        page.plain_table(table, left=("OOD images", "best", "not significantly worse")),
    )


def _matrices(found: Findings) -> list[Section]:
    best = best_of(found.by_role, "role", INFORMED)
    signs = found.marks(found.by_role)
    sections = []
    for role in dict.fromkeys(found.roles.values()):
        means = found.by_role[("auroc", "mean")]
        parts = [
            page.matrix_table(found.by_role, models, role, marks=signs, best=best.get(role), aside=INFORMED)
            for models in kindred(means)
        ]
        note = (
            f"{CELLS} Unweighted means over the {role} sets; the best is bold. {legend(found.margin)} "
            "‡: not significantly worse than the best on every set of the group. ssdk has seen images of the "
            "OOD set and does not compete."
        )
        sections.append((f"{role.capitalize()}-OOD: detectors × models", note, "<br>".join(parts)))
    return sections


def _sets(found: Findings) -> list[Section]:
    rows, by_set = found.rows, found.by_set
    table = page.heat_table(
        by_set, "set", marks=found.marks(by_set), notes=found.notes(), intervals=interval_notes(rows)
    )
    note = (
        f"{CELLS} For a single seed the 95 % interval of the AUROC, of ssdk the spread over its repeats. "
        f"{legend(found.margin)} {LEGEND}"
    )
    count = len(by_set.index.droplevel("set").unique())
    sections = [("Every set", note, page.folded(f"Show all {count} models and detectors, best first", table))]
    if found.audit.left_out_in_all:
        filtered = over_seeds(rows, ["filtered_auroc", "filtered_fpr95_id"], by="set")
        table = page.folded("Show the filtered numbers", page.heat_table(filtered, "set", prefix="filtered_"))
        without = "Every set without the images to leave out, on both sides."
        sections.append(("Without overlaps", f"{without} {CELLS}", table))
    header, *lines = sets_table(found.audit)
    note = f"AUROC of the artefact control in %, and how many images {LEFT_OUT}"
    sections.append(("The sets", note, page.plain_table(pd.DataFrame(lines, columns=header))))
    return sections


def _scores(found: Findings, panels: Mapping[str, Mapping[str, np.ndarray]], sets: Path) -> list[Section]:
    chosen = "For every model, best first, the detector that did best on these sets, first seed"
    drawing = figures.distributions(panels, found.id)
    title, scores = next(iter(panels.items()))
    images = {name: read_split(sets, name, "test")[0] for name in scores}
    for name, values in scores.items():
        if len(images[name]) != len(values):
            raise InputError(f"{sets}: {name!r} has {len(images[name])} test images for {len(values)} scores")
    return [
        (
            "How the scores are distributed",
            f"{chosen}: scores of the ID test set (grey) and of every OOD set, each drawn to its own "
            "height. Right is more OOD; the axis is linear near 0 and logarithmic far out. Dotted: the "
            "threshold that flags 5 % of ID. The number at the right: how much of the set is flagged.",
            f"<figure>{drawing}</figure>",
        ),
        (
            "What a threshold costs and catches",
            f"{chosen}: the share of OOD images that is flagged at each share of false alarms. The dotted "
            "line marks 5 % false alarms.",
            f"<figure>{figures.roc_panels(panels, found.id)}</figure>",
        ),
        (
            "Which images mislead the best",
            f"{title}, first seed, the best on these sets: the ID test images that look most OOD to it, and "
            "of every OOD set the images that look most like ID. Under each: % of ID test images that score "
            "at least as high. Red frame: on the wrong side of the threshold with 5 % false alarms.",
            misleading(scores, images, found.id),
        ),
    ]


def _accuracies(found: Findings) -> list[Section]:
    numbers = found.accuracy.drop(columns="seed").groupby("model", sort=False).mean().map(percent)
    table = page.plain_table(numbers.rename(columns=probe_name).reset_index())
    sections = [("Accuracy on the ID classes", f"{accuracy_note(found.accuracy)} Mean over seeds.", table)]
    if len(found.mistaken):
        table = page.plain_table(mistakes_frame(found.mistaken, spread=False))
        sections.append(("Knowing its own mistakes", MISTAKES, table))
    return sections


def write_report(folder: Path, found: Findings, scores: Path, sets: Path, curves: Mapping) -> None:
    """Write index.html. `scores` and `sets` are folders, `curves` is what `read_curves` returns.

    Raises InputError if the scores or the images of a set are missing.
    """
    sections = [
        _glance(found),
        *_matrices(found),
        *_scores(found, score_panels(scores, found), sets),
        *_sets(found),
        *_accuracies(found),
    ]
    if curves:
        note = "First seed. Losses of different models are different functions: compare shapes, not heights."
        sections.append(("Training", note, f"<figure>{figures.curves(curves, WANTED)}</figure>"))
    counts = {name: found.rows[name].nunique() for name in ("model", "detector", "set", "seed")}
    lead = ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items())
    lead = f"{lead}. ID set: {found.id}. Scores are larger for OOD; AUROC 50 % is chance, 100 % perfect."
    save_text(folder / "index.html", page.page(f"OOD detection on {found.id}", lead, sections))
