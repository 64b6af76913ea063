"""What the results hold of each part of a study, and what became of the parts that they lack."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from sslood.core.errors import InputError, as_line
from sslood.core.files import load_json
from studies.parts import OUTPUT
from studies.plan import Part, Study
from studies.table import Rows, read_rows

SWEEPS = "sweeps"  # folder of a part: in it a folder for each
STAGES = "stages.csv"
PUBLISHED = "published.md"


@dataclass(frozen=True)
class Finished:
    """A part with results: where they come from, and its rows (none of a command).

    sweeps: name -> its files that a page links, as paths in the folder of results: tables, then figures.
    stages: stage, seconds, threads and digest of each, None if they were not recorded. published: the path
    of the table with published figures, "" if there is none.
    """

    part: Part
    origin: Mapping[str, Any]
    rows: Rows
    output: str = ""
    sweeps: Mapping[str, Sequence[str]] = field(default_factory=dict)
    stages: pd.DataFrame | None = None
    published: str = ""


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a file, {} if there is none, or a cut one."""
    with suppress(InputError):
        return load_json(path)
    return {}


def finished(part: Part, folder: Path) -> Finished | None:
    """Return what `results` holds of a part, None if nothing."""
    if not (origin := read_json(folder / "origin.json")):
        return None
    output = folder / OUTPUT
    text = output.read_text(errors="replace") if output.is_file() else ""
    stages = pd.read_csv(folder / STAGES) if (folder / STAGES).is_file() else None
    published = f"{folder.name}/{PUBLISHED}" if (folder / PUBLISHED).is_file() else ""
    return Finished(part, origin, read_rows(part.name, folder), text, _sweeps(folder), stages, published)


def _sweeps(folder: Path) -> dict[str, list[str]]:
    found = {}
    for sweep in sorted((folder / SWEEPS).glob("*")):
        files = [*sorted(sweep.glob("*.md")), *sorted(sweep.glob("*.svg"))]
        found[sweep.name] = [path.relative_to(folder.parent).as_posix() for path in files]
    return found


class Unmade(NamedTuple):
    """A part without results: what became of it, and {stage, or the part of a command: why it failed}."""

    said: str
    failed: Mapping[str, str]


def unfinished(
    study: Study, states: Mapping[str, Mapping[str, Any]], done: Sequence[Finished]
) -> dict[str, Unmade]:
    """Return what became of each part without results, by its name."""
    names = {found.part.name for found in done}
    lines = {}
    for part in study.parts:
        state = states[part.name]
        if part.name in names:
            continue
        why = f": {state['reason']}" if state.get("reason") else ""
        # on one line, and without the mark that would end it as code of Markdown
        failed = {stage: as_line(text).replace("`", "'") for stage, text in state.get("failed", {}).items()}
        if state.get("state") != "done":
            lines[part.name] = Unmade(f"{state.get('state', 'not begun')}{why}", failed)
    return lines
