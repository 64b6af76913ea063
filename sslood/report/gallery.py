"""A page that shows scored pictures from the most to the least OOD; one file that needs nothing else."""

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sslood.data.sets.images import read_image

SIDE = 192  # pixels of a thumbnail's longer side; shown at two thirds of it
BINS = 20  # bars of the histogram of p-values
_SMALL = 64  # pixels of the longer side up to which a picture is shown as squares, not smoothed
_STYLE = """
:root { color-scheme: light dark; --ground: #f4f5f7; --card: #fff; --text: #1c2127; --soft: #66707b;
  --line: #dfe3e8; --id: #2b7fb8; --ood: #c8432b }
@media (prefers-color-scheme: dark) { :root { --ground: #16191d; --card: #20252b; --text: #e8ebee;
  --soft: #9aa4af; --line: #343b43; --id: #5aa9de; --ood: #ee7a5f } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1240px; padding: 2rem;
  color: var(--text); background: var(--ground) }
h1 { font-size: 1.6rem; margin: 0 0 .3rem } h2 { font-size: 1.1rem; margin: 2.2rem 0 .8rem }
h2 span, p, dt { color: var(--soft) } h2 span { font-weight: normal }
header { display: flex; flex-wrap: wrap; gap: 1.5rem 3rem; justify-content: space-between }
dl { display: grid; grid-template-columns: max-content auto; gap: .15rem 1rem; margin: 1rem 0 0 }
dd { margin: 0 } svg { display: block; overflow: visible } svg text { font-size: 12px; fill: var(--soft) }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)); gap: 14px }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  border-top: 4px solid var(--id); overflow: hidden }
figure.ood { border-top-color: var(--ood) }
img { display: block; width: 128px; height: 128px; margin: 10px auto 6px; object-fit: contain }
img.small { image-rendering: pixelated }
figcaption { padding: 0 10px 9px; font-size: 13px }
strong { color: var(--id); float: right }
.ood strong { color: var(--ood) }
small { display: block; color: var(--soft); font-size: 12px; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis }
"""


def gallery(
    rows: Sequence[Mapping[str, Any]], images: Path, title: str, facts: Mapping[str, str], *, count: int
) -> str:
    """Return the HTML page of scored pictures; `images` is the folder that their paths start from.

    rows: path, score, p_value, is_ood (bool) and predicted_class ("" without a classifier) of each picture.
    facts: what else to say above the pictures, name -> text. Of more than `count` pictures it shows
    `count`, at even steps of rank from first to last. Raises InputError naming a picture that cannot be read
    any more.
    """
    rows = sorted(rows, key=lambda row: (-row["score"], row["path"]))
    shown = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    called = sum(row["is_ood"] for row in rows)
    summary = f"{called} of {len(rows)} pictures are OOD. "
    summary += f"{len(shown)} of them are shown" if len(shown) < len(rows) else "All are shown"
    described = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(facts[key])}</dd>" for key in facts)
    head = (
        f"<header><div><h1>{html.escape(title)}</h1><p>{summary}, from the most OOD to the least.</p>"
        f"<dl>{described}</dl></div>{_histogram(rows)}</header>"
    )
    return _page(title, [head, *_sections(rows, shown, called, images)])


def _page(title: str, parts: Sequence[str]) -> str:
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    )
    body = "\n".join(parts)
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _sections(
    rows: Sequence[Mapping[str, Any]], shown: np.ndarray, called: int, images: Path
) -> Iterator[str]:
    """Yield the pictures that are OOD, then the others, each under a heading, if there are any."""
    for name, flag, total in (
        ("Out-of-distribution", True, called),
        ("In-distribution", False, len(rows) - called),
    ):
        places = [place for place in shown if rows[place]["is_ood"] == flag]
        if places:
            yield f"<h2>{name} <span>{total} picture{'s' * (total != 1)}</span></h2><main>"
            yield from (_figure(rows[place], place + 1, images) for place in places)
            yield "</main>"


def _figure(row: Mapping[str, Any], rank: int, images: Path) -> str:
    name, is_ood = html.escape(row["path"]), row["is_ood"]
    source, look = _thumbnail(images / row["path"])
    predicted = html.escape(row["predicted_class"])
    lines = [f"score {float(row['score']):.4g}", f"p {float(row['p_value']):.3g}"]
    lines += [f"class {predicted}"] if predicted else []
    details = "".join(f"<small>{line}</small>" for line in lines)
    return (
        f'<figure class="{"ood" if is_ood else "id"}"><img alt="{name}"{look} src="{source}">'
        f"<figcaption>#{rank} <strong>{'OOD' if is_ood else 'ID'}</strong>{details}"
        f'<small title="{name}">{name}</small></figcaption></figure>'
    )


def _thumbnail(path: Path) -> tuple[str, str]:
    """Return (data address of a small copy, attribute that says how to enlarge it)."""
    image = read_image(path)
    small = max(image.size) <= _SMALL
    kind = "png" if max(image.size) <= SIDE else "jpeg"
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, kind)
    code = base64.b64encode(content.getvalue()).decode()
    return f"data:image/{kind};base64,{code}", ' class="small"' if small else ""


def _histogram(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG of the p-values, what is OOD in its colour; a line marks what ID pictures would give."""
    p = np.array([float(row["p_value"]) for row in rows])
    ood = np.array([row["is_ood"] for row in rows])
    counts = [np.histogram(p[chosen], BINS, (0.0, 1.0))[0] for chosen in (ood, ~ood)]
    width, height, step = 340, 110, 340 / BINS
    scale = height / max(1, (counts[0] + counts[1]).max())
    bars = []
    for place, (red, other) in enumerate(zip(*counts, strict=True)):
        low = height
        for number, colour in ((red, "--ood"), (other, "--id")):
            low -= number * scale
            bars.append(
                f'<rect x="{place * step + 1:.1f}" y="{low:.1f}" width="{step - 2:.1f}" '
                f'height="{number * scale:.1f}" fill="var({colour})"/>'
            )
    even = height - len(rows) / BINS * scale
    return (
        f'<svg width="{width}" height="{height + 40}" role="img" aria-label="Histogram of the p-values">'
        + "".join(bars)
        + f'<path d="M0 {even:.1f}H{width}" stroke="var(--soft)" stroke-dasharray="4 4"/>'
        f'<path d="M0 {height}H{width}" stroke="var(--soft)"/><text y="{height + 16}">0</text>'
        f'<text x="{width}" y="{height + 16}" text-anchor="end">1</text>'
        f'<text x="{width / 2}" y="{height + 16}" text-anchor="middle">p-value</text>'
        f'<text x="{width / 2}" y="{height + 34}" text-anchor="middle">dashed: if all were ID</text></svg>'
    )
