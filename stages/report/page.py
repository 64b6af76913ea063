"""The report: one HTML file that needs nothing else, no script and no network."""

from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from stages.report.tables import NO_MARKS, percent

CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; }
body { margin: 2rem auto; max-width: 74rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.note, figcaption { color: #555; font-size: .9rem; max-width: 52rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .45rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e4e4e4; }
th:first-child, td:first-child, th.left, td.left { text-align: left; }
th small { display: block; color: #555; font-weight: normal; }
thead th { border-bottom: 2px solid #888; position: sticky; top: 0; background: #fff; }
td small { color: #555; } figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; }
"""


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
    head = "".join(
        f"<th>{escape(str(column))}<small>{escape(notes.get(column, ''))}</small></th>" for column in columns
    )
    return (
        f'<div class="wide"><table><thead><tr><th>model</th><th class="left">detector</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _heat_cell(summary: pd.DataFrame, key: tuple, prefix: str, mark: str, interval: str | None) -> str:
    if key not in summary.index:
        return "<td>–</td>"
    row = summary.loc[key]
    auroc = row[(f"{prefix}auroc", "mean")]
    text = percent(auroc, row[(f"{prefix}auroc", "std")]) + escape(mark)
    fpr = percent(row[(f"{prefix}fpr95_id", "mean")])
    below = f"<br><small>{escape(interval)}</small>" if interval else ""
    return f'<td style="background:{shade(auroc)}">{text} <small>{fpr}</small>{below}</td>'


def plain_table(frame: pd.DataFrame) -> str:
    """Return a data frame of text cells as an HTML table."""
    head = "".join(f"<th>{escape(str(name))}</th>" for name in frame.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(value))}</td>" for value in row) + "</tr>"
        for row in frame.itertuples(index=False)
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def page(title: str, lead: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """Return the whole page; `sections` holds (heading, note, HTML)."""
    parts = [
        f'<h2>{escape(heading)}</h2>\n<p class="note">{escape(note)}</p>\n{content}'
        for heading, note, content in sections
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="note">{escape(lead)}</p>\n'
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )
