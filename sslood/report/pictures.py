"""Which images mislead a detector: farthest on the wrong side of its scores, as small pictures."""

import base64
import io
from collections.abc import Mapping
from html import escape

import numpy as np
from PIL import Image

SIDE = 64  # pixels of a picture's longer side; smaller ones stay as they are
ALARMS = 0.05


def misleading(
    scores: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray], id_name: str, count: int = 12
) -> str:
    """Return HTML: per set a row of the `count` images that mislead the detector most, worst first.

    `scores` maps the ID test set and every OOD set to [N], larger = more OOD; `images` maps them to uint8
    [N, C, H, W] in the same order. Of the ID set the highest scores are shown, of the others the lowest.
    Under each stands the share of ID test images that score at least as high, in %; a red frame means the
    wrong side of the threshold with 5 % false alarms.
    """
    inside = np.sort(scores[id_name])
    rows = []
    for name, values in scores.items():
        own = name == id_name
        order = np.argsort(-values if own else values, kind="stable")[:count]
        shares = 1 - np.searchsorted(inside, values[order], side="left") / len(inside)
        wrong = (shares <= ALARMS) == own
        cells = [
            _picture(images[name][place], f"{name} {place}", share, bad)
            for place, share, bad in zip(order, shares, wrong, strict=True)
        ]
        side = "ID, most OOD first" if own else "OOD, most ID-like first"
        rows.append(
            f'<tr><th class="left">{escape(name)}<small>{side}</small></th><td>{"".join(cells)}</td></tr>'
        )
    return f'<div class="wide"><table class="pictures"><tbody>{"".join(rows)}</tbody></table></div>'


def _picture(image: np.ndarray, name: str, share: float, wrong: bool) -> str:
    frame = "wrong" if wrong else "right"
    source = f"data:image/png;base64,{_png(image)}"
    return (
        f'<figure class="{frame}"><img alt="{escape(name)}" src="{source}">'
        f"<figcaption>{100 * share:.1f}</figcaption></figure>"
    )


def _png(image: np.ndarray) -> str:
    """Return a uint8 [1 or 3, H, W] image as base64 of a PNG, shrunk to at most SIDE pixels."""
    picture = Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))
    picture.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    picture.save(content, "png")
    return base64.b64encode(content.getvalue()).decode()
