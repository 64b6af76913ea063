"""Draw the README's picture from metrics/results.csv and a few images of each set: docs/quickstart.svg.

One row per set: how many of its images pass as ID when 95 % of the ID test images do (`fpr95_id`, mean over
seeds), judged by two detectors on the same classifier. `make readme` draws it after a run.
"""

import base64
import csv
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from sslood.core.files import load_tensors

MODEL = "classifier_simclr"
BARS = (
    ("msp", "its highest probability", "#c65d3b"),
    ("knn", "nearest neighbours of its features", "#2b6cb0"),
)
ROWS = (
    ("digits", "digits 0 to 7", "the ID test images"),
    ("digits_heldout", "digits 8 and 9", "not in training"),
    ("letters", "letters", ""),
    ("photos", "photo patches", ""),
    ("blobs", "blobs", ""),
    ("gaussian", "Gaussian noise", ""),
    ("uniform", "uniform noise", ""),
)
EXAMPLES = 4
WIDTH, TOP, STEP, LEFT, SPAN = 860, 104, 56, 372, 400  # pixels; the bars start at LEFT, 100 % is SPAN wide


def shares(results: str) -> dict[tuple[str, str], float]:
    """Return {(set, detector): fpr95_id, mean over seeds} of MODEL from the text of results.csv."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in csv.DictReader(results.splitlines()):
        if row["model"] == MODEL and row["detector"] in [name for name, *_ in BARS]:
            found.setdefault((row["set"], row["detector"]), []).append(float(row["fpr95_id"]))
    return {key: fmean(values) for key, values in found.items()}


def strip(images: np.ndarray) -> str:
    """Return EXAMPLES of the images, uint8 [N, C, H, W], side by side as a PNG in a data address.

    Written without compression, so that the bytes do not depend on the version of zlib.
    """
    grey = images[:: max(1, len(images) // EXAMPLES)][:EXAMPLES].mean(axis=1).round().astype(np.uint8)
    gap = np.full((len(grey), grey.shape[1], 1), 255, np.uint8)
    pixels = np.concatenate(list(np.concatenate([grey, gap], axis=2)), axis=1)[:, :-1]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">2I5B", pixels.shape[1], len(pixels), 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return "data:image/png;base64," + base64.b64encode(content).decode()


def bars(values: dict[tuple[str, str], float]) -> list[str]:
    """Return the bars and their numbers, in the order of ROWS and BARS; a number is a <text> of class n."""
    parts = []
    for place, (name, *_) in enumerate(ROWS):
        for line, (detector, _, colour) in enumerate(BARS):
            share = values.get((name, detector), 0.95)  # ID: where the threshold lies
            y, width = TOP + place * STEP + 5 + line * 20, max(share * SPAN, 1)
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="15" rx="2" fill="{colour}"/>'
                f'<text class="n" x="{LEFT + share * SPAN + 7:.1f}" y="{y + 12}">{100 * share:.1f}</text>'
            )
    return parts


def picture(values: dict[tuple[str, str], float], strips: Sequence[str]) -> str:
    """Return the picture as SVG; strips: the example images of each of ROWS."""
    height = TOP + len(ROWS) * STEP + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif" font-size="14">',
        "<title>Share of images accepted as ID, by two detectors, for seven image sets</title>",
        "<style>text{fill:#1f2933}.s{fill:#66717d;font-size:12px}.n{font-size:12px}</style>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#fff"/>',
        '<text x="24" y="34" font-size="16" font-weight="600">A classifier of the digits 0 to 7 meets other '
        "images. How many pass as digits?</text>",
        '<text class="s" x="24" y="56">% accepted at the threshold that accepts 95 % of the ID test images; '
        "mean over seeds (fpr95_id)</text>",
    ]
    x = 24
    for _, words, colour in BARS:
        parts.append(
            f'<rect x="{x}" y="72" width="12" height="12" rx="2" fill="{colour}"/>'
            f'<text x="{x + 19}" y="83">judged by {words}</text>'
        )
        x += 290
    for place, ((_, label, note), image) in enumerate(zip(ROWS, strips, strict=True)):
        y = TOP + place * STEP
        parts.append(f'<line x1="24" x2="{WIDTH - 24}" y1="{y - 3}" y2="{y - 3}" stroke="#e3e7eb"/>')
        parts.append(
            f'<image x="24" y="{y + 4}" width="176" height="42" href="{image}" '
            'preserveAspectRatio="xMinYMid" style="image-rendering:pixelated"/>'
            f'<text x="216" y="{y + (22 if note else 30)}">{label}</text>'
        )
        if note:
            parts.append(f'<text class="s" x="216" y="{y + 40}">{note}</text>')
    return "\n".join([*parts, *bars(values), "</svg>", ""])


def render(root: Path) -> str:
    """Return the picture of the last run; InputError if its sets are not there."""
    folder = root / "data/sets"
    tensors = [
        load_tensors(folder / f"{name}.safetensors", kind="set", only=["test.images"])[0] for name, *_ in ROWS
    ]
    results = (root / "metrics/results.csv").read_text(encoding="utf-8")
    return picture(shares(results), [strip(content["test.images"]) for content in tensors])
