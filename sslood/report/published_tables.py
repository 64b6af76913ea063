"""Tables of our results beside published figures: Markdown, CSV, LaTeX, and what the page shows."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from sslood.core.files import read_metadata, save_text
from sslood.report.beside import Line, cell, described
from sslood.report.cells import Table
from sslood.report.columns import DECISIONS, DIGITS, METRICS
from sslood.report.latex import escaped, latex
from sslood.report.published_figures import Source
from sslood.report.render import render

FILES = ("published.md", "published.csv", "published.tex")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Part:
    """What is shown of one source. meanings: {heading: what it means}; notes: {letter: what differs}.

    table: None for a source that has no figure, which its `origin` says.
    """

    source: Source
    table: Table | None
    meanings: dict[str, str]
    notes: dict[str, str]


def parts(lines: Sequence[Line], named: Sequence[Source] = ()) -> list[Part]:
    """Return a table for each source that `lines` have: cells "ours / published" in %.

    named: sources that are shown even if they have no figure.
    """
    names = list(dict.fromkeys(line.source.name for line in lines))
    shown = [_part([line for line in lines if line.source.name == name]) for name in names]
    return shown + [Part(source, None, {}, {}) for source in named if source.name not in names]


def _part(lines: Sequence[Line]) -> Part:
    source = lines[0].source
    metrics = [
        name for name in source.metrics if any(name in {*line.row.values, *line.ours} for line in lines)
    ]
    sentences = list(dict.fromkeys(text for line in lines for text in line.differs))
    letters = dict(zip(sentences, map(_letter, range(len(sentences))), strict=True))
    rows = [
        [*described(line), *(cell(line, name) for name in metrics),
         ", ".join(letter for text, letter in letters.items() if text in line.differs)]
        for line in lines
    ]  # fmt: skip
    titles = {name: _title(source, name) for name in metrics}
    header = ["ours", "published", "on", *titles.values(), "differs"]
    meanings = {titles[name]: source.metrics[name].means for name in metrics}
    return Part(source, Table(header, rows, left=header[:3]), meanings, {v: k for k, v in letters.items()})


def _letter(place: int) -> str:
    """Return a, b, …, z, aa, bb, …"""
    return LETTERS[place % len(LETTERS)] * (place // len(LETTERS) + 1)


def _title(source: Source, name: str) -> str:
    """Return a heading: that of our metric, or the published name with a star if none of ours is the same."""
    ours = source.metrics[name].ours
    known = METRICS | DECISIONS
    if ours is None:
        return f"{name.replace('aupr_', 'AUPR-')}*"
    return known[ours].title if ours in known else name


def about_ours(folder: Path, id_name: str) -> tuple[str, list[str]]:
    """Return how large our ID set is, as a sentence, and its held-out classes, from its file in `folder`."""
    metadata = read_metadata(folder / f"{id_name}.safetensors", kind="set")
    splits, size = metadata["splits"], metadata["size"]
    counts = ", ".join(f"{splits[name]:,} {name}" for name in ("train", "validation", "test"))
    return f"{counts} images of {size} pixels", metadata.get("settings", {}).get("heldout", [])


def write_published(folder: Path, lines: Sequence[Line], shown: Sequence[Part], ours: str) -> None:
    """Write published.md, .csv and .tex, or remove them if there is nothing to show.

    shown: what `parts` makes of `lines`. ours: the sentence of `about_ours`.
    """
    if not shown:
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        return
    save_text(folder / "published.md", render("published.md.j2", parts=shown, ours=ours))
    save_text(folder / "published.csv", as_csv(lines))
    save_text(folder / "published.tex", "\n\n".join(map(_tex, shown)) + "\n")


def as_csv(lines: Sequence[Line]) -> str:
    """Return a row per figure, ours and published as fractions, empty where there is none."""
    header = [
        "source",
        "link",
        "id",
        "set",
        "model",
        "detector",
        "metric",
        "ours",
        "ours_std",
        "seeds",
        "images",
    ]
    header += ["published", "published_std", "published_model", "published_detector", "variant", "network"]
    header += ["measures_the_same", "means", "differs"]
    rows = []
    for line in lines:
        row, source = line.row, line.source
        for name in [name for name in source.metrics if name in {*row.values, *line.ours}]:
            ours, value = line.ours.get(name), row.values.get(name)
            numbers = [ours.mean, ours.std, ours.seeds] if ours else [None, None, None]
            printed = [value.mean, value.std] if value else [None, None]
            definition = source.metrics[name]
            rows.append([
                source.name, source.link, row.id, row.set, line.model, line.detector, name,
                *map(_number, numbers), line.images or "", *map(_number, printed),
                row.model, row.detector, row.what, row.network, definition.ours or "", definition.means,
                "; ".join(line.differs),
            ])  # fmt: skip
    file = StringIO()
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return file.getvalue()


def _number(value: float | None) -> str:
    if value is None or value != value:
        return ""
    return str(value) if isinstance(value, int) else str(round(value, DIGITS))


def _tex(part: Part) -> str:
    """Return a tabular with its notes, to be put into a table environment; a comment without a table."""
    if part.table is None:
        return f"% {part.source.title}: {part.source.origin}"
    notes = [f"{letter}: {text}" for letter, text in part.notes.items()]
    words = escaped("; ".join([f"Ours / published in %. {part.source.title}", *notes]))
    return f"{latex(part.table)}\n\\par\\footnotesize {words}."
