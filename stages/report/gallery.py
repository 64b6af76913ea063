"""A page that shows scored pictures from the most to the least OOD; one file that needs nothing else."""

import base64
import csv
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.data.sets.images import read_image

SIDE = 96  # pixels of a thumbnail's longer side
_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)); gap: 12px }
figure { margin: 0; padding: 6px; border: 2px solid #2a7a4b; border-radius: 4px; text-align: center }
figure.ood { border-color: #c0392b }
img { width: 96px; height: 96px; object-fit: contain; image-rendering: pixelated }
figcaption { font-size: 12px; overflow-wrap: anywhere }
"""


def gallery(table: Path, images: Path, title: str, *, count: int) -> str:
    """Return the HTML page of a CSV of stages.score; `images` is the folder its paths start from.

    Of more than `count` pictures it shows `count`, at even steps of rank from first to last.
    Raises InputError naming a picture that cannot be read any more.
    """
    with open(table, newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (-float(row["score"]), row["path"]))
    shown = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    figures = [_figure(rows[place], place + 1, images) for place in shown]
    called = sum(row["is_ood"] == "true" for row in rows)
    summary = f"{called} of {len(rows)} pictures are OOD (red); {len(shown)} are shown, most OOD first."
    return _page(title, summary, figures)


def _page(title: str, summary: str, figures: Sequence[str]) -> str:
    title = html.escape(title)
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    body = f"<h1>{title}</h1><p>{summary}</p><main>\n" + "\n".join(figures) + "\n</main>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _figure(row: dict[str, str], rank: int, images: Path) -> str:
    name, kind = html.escape(row["path"]), "ood" if row["is_ood"] == "true" else "id"
    predicted = f"<br>{html.escape(row['predicted_class'])}" if row["predicted_class"] else ""
    values = f"#{rank} · {float(row['score']):.4g}<br>p {float(row['p_value']):.3g}"
    picture = f'<img alt="{name}" src="data:image/png;base64,{_thumbnail(images / row["path"])}">'
    return f'<figure class="{kind}">{picture}<figcaption>{values}{predicted}<br>{name}</figcaption></figure>'


def _thumbnail(path: Path) -> str:
    image = read_image(path)
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "png")
    return base64.b64encode(content.getvalue()).decode()
