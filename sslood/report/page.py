"""The report: pages and tables for people, written from the summary of all results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd

from sslood.core.errors import InputError, as_line
from sslood.core.files import save_text
from sslood.core.settings import Settings
from sslood.data.sets.roles.roles import read_split
from sslood.report import decision_tables, figures, tables
from sslood.report.columns import ALARMS, FULL, HEADLINE, MAIN, METRICS, SECOND, describe_all
from sslood.report.ensembles import sweeps
from sslood.report.evidence import NEAR_CONTROL, of_roles
from sslood.report.frame import ScoreFiles
from sslood.report.outliers import Trained, before_and_after, by_set, changes, chose, panels
from sslood.report.pictures import misleading
from sslood.report.price import best_model, prices
from sslood.report.published_tables import Part
from sslood.report.render import render
from sslood.report.summary import Summary

CURVES = {"loss": "loss", "knn": "kNN accuracy (validation)", "validation_accuracy": "accuracy (validation)"}
NAMED = 5  # models and sets in a sentence; the others are counted
TITLES = [METRICS[name].title for name in HEADLINE]


@dataclass(frozen=True)
class HeadlineSettings(Settings):
    """What the small table of the README shows; names without results are left out."""

    models: Annotated[tuple[str, ...], "models of metrics/headline.md, its columns"]
    detectors: Annotated[tuple[str, ...], "detectors of metrics/headline.md, its rows"]


def write_tables(
    folder: Path, summary: Summary, headline: HeadlineSettings, trained: Sequence[Trained] = ()
) -> None:
    """Write headline.md (for the README), table.md (the overview), per_set.md and decisions.md."""
    shared = _shared(summary, trained)
    small = tables.headline(summary, headline.models, headline.detectors)
    texts: dict[str, dict[str, Any]] = {
        "headline": {
            "table": small,
            "marked": any(NEAR_CONTROL in str(cell) for row in small.rows for cell in row),
        },
        "table": {
            "overview": tables.overview(summary),
            "control": of_roles(summary.audit.control(), summary.roles),
            "prices": prices(summary.rows, summary.groups, summary.choices),
            "best_model": best_model(summary.rows, summary.groups, summary.choices),
        },
        "per_set": {"columns": describe_all(summary.rows.columns)},
        "decisions": {
            "flagged": decision_tables.near_far_of(summary, "flagged"),
            "full": decision_tables.near_far_of(summary, f"{FULL}{MAIN}"),
            "mixed": decision_tables.near_far_of(summary, "aurc_ood"),
            "columns": ALARMS,
        },
    }
    for name, own in texts.items():
        save_text(folder / f"{name}.md", render(f"{name}.md.j2", **shared, **own))


def _shared(summary: Summary, trained: Sequence[Trained]) -> dict[str, Any]:
    """Return what both the page and the Markdown tables show."""
    return {
        "summary": summary,
        "seeds": summary.rows["seed"].nunique(),
        "detectors": set(summary.rows["detector"]),
        "titles": TITLES,
        "per_set": tables.per_set(summary),
        "few_shot": few_shot(summary.rows),
        "filtered": tables.per_set_filtered(summary),
        "sets": tables.sets(summary),
        "limits": tables.limits(summary),
        "threshold": decision_tables.at_the_threshold(summary),
        "by_class": decision_tables.by_class(summary),
        "under_shift": decision_tables.under_shift(summary),
        "left_out": tables.left_out(summary),
        "accuracies": tables.accuracies(summary.accuracy),
        "transfer": any(name.startswith("transfer_") for name in summary.accuracy.columns),
        "mistakes": tables.mistakes(summary.mistakes) if len(summary.mistakes) else None,
        "against": before_and_after(summary, trained),
        "against_chosen": chose(trained),
        "against_sets": by_set(summary, trained),
        "changes": changes(summary, trained),
    }


def few_shot(rows: pd.DataFrame) -> str:
    """Return what left out known images say against the rows of SSD_k, a sentence each; "" if nothing."""
    if "fallbacks" not in rows:
        return ""
    known = rows[rows["fallbacks"].notna()]
    return "".join(_few_shot(str(name), part) for name, part in known.groupby("detector", sort=False))


def _few_shot(name: str, rows: pd.DataFrame) -> str:
    places = [f"{model} on {own}" for model, own in zip(rows["model"], rows["set"], strict=True)]
    fallen = [(place, int(count)) for place, count in zip(places, rows["fallbacks"], strict=True) if count]
    lower = (rows["fallbacks"] == 0) & (rows["held_out"] < rows["held_out_ssd"])
    parts = []
    if fallen:
        total, repeats = sum(count for _, count in fallen), int(rows["repeats"].sum())
        named = _listed([f"{place}, {count}" for place, count in fallen], "; ")
        parts.append(f"is ssd itself in {total} of {repeats} repeats, where ssd is clearly better ({named})")
    if lower.any():
        named = _listed([place for place, low in zip(places, lower, strict=True) if low], "; ")
        parts.append(f"is below ssd, though not clearly, for {named}")
    return f" On known images that are left out, {name} {', and '.join(parts)}." if parts else ""


def _listed(names: Sequence[str], between: str) -> str:
    """Return the first names, and how many more there are."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return between.join(names[:NAMED]) + more


def write_page(
    folder: Path,
    summary: Summary,
    scores: ScoreFiles,
    sets: Path,
    curves: Mapping[str, Any],
    trained: Sequence[Trained] = (),
    published: Sequence[Part] = (),
    ours: str = "",
) -> None:
    """Write index.html. `sets` is the folder of the image sets, `curves` is what `read_curves` returns.

    published: what `parts` of published_tables.py returns; ours: the sentence of its `about_ours`.

    Raises InputError if the scores or the images of a set are missing.
    """
    best = score_panels(summary, scores)
    title, first = next(iter(best.items()))
    counts = {name: summary.rows[name].nunique() for name in ("model", "detector", "set", "seed")}
    words = {**counts, "OOD set": counts["set"]}
    lead = ", ".join(
        f"{words[w]} {w}{'s' * (words[w] != 1)}" for w in ("model", "detector", "OOD set", "seed")
    )
    page = render(
        "page.html.j2",
        title=f"OOD detection on {summary.id}",
        lead=f"ID set: {summary.id}. {lead}.",
        second=METRICS[SECOND].meaning,
        glance=tables.glance(summary),
        matrices={role: tables.matrices(summary, role) for role in dict.fromkeys(summary.roles.values())},
        distributions=figures.distributions(best, summary.id),
        roc=figures.roc_panels(best, summary.id),
        misled=title,
        misleading=misleading(first, _images(sets, first), summary.id),
        full=decision_tables.near_far_of(summary, f"{FULL}{MAIN}", bold=False),
        mixed=decision_tables.near_far_of(summary, "aurc_ood", bold=False),
        training=figures.curves(curves, CURVES) if curves else None,
        prices=prices(summary.rows, summary.groups, summary.choices),
        best_model=best_model(summary.rows, summary.groups, summary.choices),
        energies=figures.energies(panels(trained)) if trained else None,
        published=published,
        ours=ours,
        sweeps=sweeps(summary.sweeps, summary.roles, summary.id) if summary.sweeps else None,
        **_shared(summary, trained),
    )
    save_text(folder / "index.html", page)


def score_panels(summary: Summary, scores: ScoreFiles) -> dict[str, dict[str, np.ndarray]]:
    """Return {"model · detector": {set: scores}} of the first run of each model's best detector."""
    panels, rows = {}, summary.rows
    for model, detector in summary.best_detectors().items():
        part = rows[(rows["model"] == model) & (rows["detector"] == detector)]
        first = part[part["file"] == part["file"].iloc[0]]
        pairs = {row["set"]: scores.read(row)[0] for row in first.to_dict("records")}
        inside = {summary.id: next(iter(pairs.values())).id}
        panels[f"{model} · {detector}"] = inside | {name: pair.ood for name, pair in pairs.items()}
    return panels


def _images(folder: Path, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the test images of the sets of `scores`; InputError if they are not as many."""
    images = {name: read_split(folder, name, "test")[0] for name in scores}
    for name, values in scores.items():
        if len(images[name]) != len(values):
            raise InputError(
                f"{folder}: {name!r} has {len(images[name])} test images for {len(values)} scores"
            )
    return images


def read_curves(folder: Path, models: Sequence[str], seed: int) -> dict[str, Any]:
    """Return {model: {column: values}} of the training curves that exist for `seed`.

    Raises InputError for a file that is no table of numbers.
    """
    files = {model: folder / f"{model}-{seed}.csv" for model in models}
    found = {model: _curve(path) for model, path in files.items() if path.is_file()}
    return {model: rows.to_dict("list") for model, rows in found.items() if len(rows)}


def _curve(path: Path) -> pd.DataFrame:
    remedy = "delete the file and repeat the stage that trains this model: run `dvc repro`"
    try:
        rows = pd.read_csv(path)
    except ValueError as error:  # of pandas, or not UTF-8
        raise InputError(f"{path}: no table of training curves ({as_line(error)}); {remedy}") from None
    if "epoch" not in rows:
        raise InputError(f"{path}: has no column 'epoch'; {remedy}")
    for name in rows.columns.intersection(["epoch", *CURVES]):
        if len(rows) and not pd.api.types.is_numeric_dtype(rows[name]):  # none of a model that was left out
            raise InputError(f"{path}: column {name!r} must hold numbers alone; {remedy}")
    return rows
