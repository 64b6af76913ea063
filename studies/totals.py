"""What the page of a study says about all of its parts together: test images, widths of intervals, hours."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sslood.report.cells import percent
from sslood.report.frame import is_informed
from studies.done import Finished

ROLES = ("near", "far")
UNITS, LEAST = (("hours", 1), ("minutes", 60), ("seconds", 3600)), 0.1  # in an hour; what is worth a unit


def sizes(done: Sequence[Finished]) -> str:
    """Return the numbers of test images as a sentence, parts with others named; "" without results."""
    parts = dict[str, list[str]]()
    for found in done:
        if len(found.rows.groups):
            parts.setdefault(_images(found.rows.groups), []).append(f"`{found.part.name}`")
    if not parts:
        return ""
    usual, *others = sorted(parts, key=lambda text: -len(parts[text]))
    named = [f"; in {', '.join(parts[text])} {text}" for text in others]
    return f"Test images: n = {usual}{''.join(named)}."


def _images(groups: pd.DataFrame) -> str:
    rows = groups[~groups["detector"].map(is_informed)].drop_duplicates("role").set_index("role")
    words = [f"{row.n_ood:,} {role} ({row.sets} {'set' if row.sets == 1 else 'sets'})"
             for role, row in rows.iterrows() if role in ROLES]  # fmt: skip
    return f"{rows['n_id'].max():,} ID, {', '.join(words)}"


def widths(done: Sequence[Finished], detectors: Sequence[str]) -> str:
    """Return how wide the intervals of these detectors are at most, near and far, as a sentence."""
    groups = [found.rows.groups for found in done if len(found.rows.groups)]
    if not groups:
        return ""
    rows = pd.concat(groups)
    rows = rows[rows["detector"].isin(detectors)]
    reach = ((rows["high"] - rows["low"]) / 2).groupby(rows["role"]).max()
    words = [f"{percent(reach[role])} {role}" for role in ROLES if np.isfinite(reach.get(role, np.nan))]
    return f"The 95 % intervals of the other columns are at most ± {' and ± '.join(words)}." if words else ""


def hours(done: Sequence[Finished], core: Sequence[str] = ()) -> str:
    """Return the hours that the parts took, each stage counted once, as sentences.

    A part whose stages were not recorded counts in full, and the sum is then called an upper bound. core:
    the parts that a study names so; their hours are said besides, once all are done.
    """
    once, full = _once(done), _in_full(done)
    names = _names([found for found in done if found.stages is not None])
    text = ""
    if not names:
        text = f"At most {_hours(full)}: stages that parts share are counted in each." if done else ""
    elif not full.any():
        text = f"Each stage counted once, this took {_hours(once)}."
    else:
        text = (
            f"Each stage counted once, {names} took {_hours(once)}. Of the other parts it was not recorded "
            f"which stages they share, and each counts in full: {_hours(full)}. So all took at most "
            f"{_hours(once + full)}."
        )
    part = [found for found in done if found.part.name in core]
    if core and len(core) == len(part) < len(done):
        text += f" The parts of `core` ({_names(part)}) took at most {_hours(_once(part) + _in_full(part))}."
    return text


def _once(done: Sequence[Finished]) -> np.ndarray:
    """Return the hours of stages and of cores of the parts whose stages were recorded, each stage once."""
    tables = [found.stages for found in done if found.stages is not None]
    if not tables:
        return np.zeros(2)
    stages = pd.concat(tables).drop_duplicates("digest")
    return np.array([stages["seconds"].sum(), (stages["seconds"] * stages["threads"]).sum()]) / 3600


def _in_full(done: Sequence[Finished]) -> np.ndarray:
    """Return the hours of the parts whose stages were not recorded, what they share counted in each."""
    origins = [found.origin for found in done if found.stages is None]
    return np.array([[one["hours"], one["core_hours"]] for one in origins]).reshape(-1, 2).sum(axis=0)


def _names(done: Sequence[Finished]) -> str:
    return ", ".join(f"`{found.part.name}`" for found in done)


def _hours(pair: np.ndarray) -> str:
    """Return hours of stages and of cores in words, in the largest unit that does not show them as 0.0."""
    unit, factor = next((one for one in UNITS if pair[0] * one[1] >= LEAST), UNITS[0])
    return f"{pair[0] * factor:.1f} {unit} of stages ({pair[1] * factor:.1f} {unit} of cores)"
