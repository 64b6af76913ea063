"""The report: one HTML file that needs nothing else, no script and no network."""

from collections.abc import Collection, Mapping, Sequence
from html import escape

import pandas as pd

from sslood.report.tables import NO_MARKS, percent

CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: .95rem; margin: 1.4rem 0 .3rem; }
p.note, figcaption { color: #555; font-size: .9rem; max-width: 52rem; }
nav { font-size: .9rem; } nav a { margin-right: 1rem; white-space: nowrap; } a { color: #0b6e5c; }
summary { cursor: pointer; font-size: .9rem; color: #0b6e5c; margin: .6rem 0; }
.wide { overflow: auto; } .long { max-height: 90vh; }
table { border-collapse: separate; border-spacing: 0; font-size: .85rem; }
table { font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e4e4e4; }
th:first-child, td:first-child, th.left, td.left { text-align: left; }
tbody td:first-child, tbody th:first-child, thead th:first-child {
  position: sticky; left: 0; background: #fff; z-index: 1; }
th small { display: block; color: #555; font-weight: normal; }
thead th { border-bottom: 2px solid #888; position: sticky; top: 0; background: #fff; z-index: 2; }
thead th { vertical-align: bottom; white-space: normal; max-width: 9rem; }
thead th:first-child { z-index: 3; }
td small { color: #444; } td.left:last-child { white-space: normal; min-width: 16rem; }
figure { margin: 1rem 0; overflow-x: auto; } svg { max-width: 100%; min-width: 44rem; height: auto; }
.pictures figure { display: inline-block; margin: 2px; text-align: center; }
.pictures img { width: 48px; height: 48px; object-fit: contain; image-rendering: pixelated; }
.pictures img { display: block; border: 3px solid #ddd; } .pictures .wrong img { border-color: #c0392b; }
.pictures figcaption { font-size: .7rem; }
"""


LEFT = ' class="left"'  # words, not numbers


def shade(auroc: float) -> str:
    """Return a CSS background: white at chance, teal towards 1, rose below chance.

    The fourth power spends most of the scale on 0.85 to 1, where detectors differ.
    """
    if pd.isna(auroc):
        return "#fff"
    strength = min(1.0, abs(auroc - 0.5) * 2)
    red, green, blue = (90, 178, 160) if auroc >= 0.5 else (214, 120, 130)
    mix = [round(255 + (part - 255) * strength**4) for part in (red, green, blue)]
    return f"rgb({mix[0]},{mix[1]},{mix[2]})"


def heat_table(
    summary: pd.DataFrame,
    by: str,
    *,
    prefix: str = "",
    marks: Mapping[tuple, str] = NO_MARKS,
    notes: Mapping[str, str] = NO_MARKS,
    intervals: Mapping[tuple, str] = NO_MARKS,
) -> str:
    """Return an HTML table: a row per model x detector, a column per value of `by`, cells shaded by AUROC.

    `summary` is what `over_seeds` returns for at least <prefix>auroc and <prefix>fpr95_id. A cell reads
    AUROC ± std over seeds, its signs in `marks` and its interval, both by (model, detector, column), and
    FPR95 (ID positive) in small print; percentages. `notes` go under the names of the columns.
    """
    columns = list(dict.fromkeys(summary.index.get_level_values(by)))
    order = summary[(f"{prefix}auroc", "mean")].groupby(level=["model", "detector"], sort=False).mean()
    lines = []
    for model, detector in order.sort_values(ascending=False, kind="stable").index:
        keys = [(model, detector, column) for column in columns]
        cells = [_heat_cell(summary, key, prefix, marks.get(key, ""), intervals.get(key)) for key in keys]
        lines.append(
            f'<tr><td>{escape(model)}</td><td class="left">{escape(detector)}</td>{"".join(cells)}</tr>'
        )
    heads = [f"{escape(str(column))}<small>{escape(notes.get(column, ''))}</small>" for column in columns]
    return _table(["model", "detector", *heads], lines, "wide long", ["detector"])


def matrix_table(
    summary: pd.DataFrame,
    models: Sequence[str],
    role: str,
    *,
    marks: Mapping[tuple, str],
    best: tuple | None,
    aside: Collection[str],
) -> str:
    """Return an HTML table of one role: a row per detector, best first, a column per model of `models`.

    Cells are those of `heat_table`; the one with the key `best` is in bold. Detectors in `aside` come last.
    """
    part = summary[
        summary.index.get_level_values("model").isin(models)
        & (summary.index.get_level_values("role") == role)
    ]
    order = part[("auroc", "mean")].groupby(level="detector", sort=False).max()
    lines = []
    ranked = order.sort_values(ascending=False, kind="stable").index
    for detector in sorted(ranked, key=lambda name: name in aside):
        keys = [(model, detector, role) for model in models]
        cells = [_heat_cell(part, key, "", marks.get(key, ""), None, key == best) for key in keys]
        lines.append(f"<tr><td>{escape(detector)}</td>{''.join(cells)}</tr>")
    # long names break at their underscores
    return _table(["detector", *(escape(name).replace("_", "_<wbr>") for name in models)], lines, "wide")


def _heat_cell(
    summary: pd.DataFrame, key: tuple, prefix: str, mark: str, interval: str | None, bold: bool = False
) -> str:
    if key not in summary.index:
        return "<td>–</td>"
    row = summary.loc[key]
    auroc = row[(f"{prefix}auroc", "mean")]
    text = percent(auroc, row[(f"{prefix}auroc", "std")]) + escape(mark)
    text = f"<b>{text}</b>" if bold else text
    fpr = percent(row[(f"{prefix}fpr95_id", "mean")])
    below = f"<br><small>{escape(interval)}</small>" if interval else ""
    return f'<td style="background:{shade(auroc)}">{text} <small>{fpr}</small>{below}</td>'


def _table(heads: Sequence[str], lines: Sequence[str], kind: str, left: Collection[str] = ()) -> str:
    head = "".join(f"<th{LEFT if name in left else ''}>{name}</th>" for name in heads)
    body = "\n".join(lines)
    return f'<div class="{kind}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def plain_table(frame: pd.DataFrame, left: Collection[str] = ()) -> str:
    """Return a data frame of text cells as an HTML table; columns in `left` hold words."""
    lines = []
    for row in frame.itertuples(index=False):
        cells = [
            f"<td{LEFT if name in left else ''}>{escape(str(value))}</td>"
            for name, value in zip(frame.columns, row, strict=True)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return _table([escape(str(name)) for name in frame], lines, "wide", left)


def folded(label: str, content: str) -> str:
    """Return `content` behind a line that opens it."""
    return f"<details><summary>{escape(label)}</summary>{content}</details>"


def page(title: str, lead: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """Return the whole page; `sections` holds (heading, note, HTML)."""
    names = [f"s{place}" for place in range(1, len(sections) + 1)]
    parts = [
        f'<h2 id="{name}">{escape(heading)}</h2>\n<p class="note">{escape(note)}</p>\n{content}'
        for name, (heading, note, content) in zip(names, sections, strict=True)
    ]
    links = " ".join(
        f'<a href="#{name}">{escape(heading)}</a>'
        for name, (heading, _, _) in zip(names, sections, strict=True)
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="note">{escape(lead)}</p>\n<nav>{links}</nav>\n'
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )
