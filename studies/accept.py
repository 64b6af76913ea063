"""What an earlier call made with other code, taken for that of today's code where code is all that changed.

    python -m studies.run cifar10-fast --accept train --accept pretrain

That is honest only for edits that cannot change a result (tools/accept.py says more). The record keeps the
revision and the hardware that the outputs come from, and the study's page names them.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

from sslood.core.errors import InputError
from sslood.core.files import save_json
from sslood.core.settings import load_params, near
from studies.done import read_json
from studies.parts import STATE, Call, graph_of
from tools.closure import ROOT, is_code
from tools.direct import RECORD, read_record
from tools.graph import Cell, digest

Made = dict[tuple[str, str], tuple[str, str]]  # (part, cell) -> (digest, digest of its inputs but code)


def check_stages(stages: Iterable[str]) -> None:
    """Raise InputError for a name that is no stage of dvc.yaml."""
    known = load_params(ROOT / "dvc.yaml")["stages"]
    for name in stages:
        if name not in known:
            raise InputError(f"--accept {name}: no such stage{near(name, known)}")


def made_before(folder: Path, parts: Iterable[str], stages: Sequence[str]) -> Made:
    """Return what the parts in a study's folder hold of these stages; call it before the code is copied."""
    found: Made = {}
    for part in parts:
        if not (folder / part / RECORD).is_file():
            continue
        with chdir(folder / part):
            done = read_record()
            for cell in _of(stages):
                if cell.name in done and done[cell.name] == digest(cell):
                    found[part, cell.name] = (done[cell.name], _inputs(cell))
    return found


def accept_made(call: Call, stages: Sequence[str], made: Made) -> None:
    """Record what was made as made by the code that now lies there; call it after the code was copied.

    What has another command, other params or other data is left to run again. Raises InputError if nothing
    is left to accept.
    """
    count = 0
    for part in call.study.parts:
        before = {cell: of for (name, cell), of in made.items() if name == part.name}
        if before:
            place = call.folder / part.name
            call.lay_out(part, place, read_json(place / STATE).get("absent", {}))
            with chdir(place):
                count += _accept(call, part.name, _of(stages), before)
    if not count:
        raise InputError(
            f"--accept {stages[0]}: {call.folder} holds nothing of it that other code made and that differs "
            "in code alone; omit --accept"
        )


def _accept(call: Call, part: str, cells: Iterable[Cell], before: Mapping[str, tuple[str, str]]) -> int:
    count, done = 0, read_record()
    for cell in cells:
        old, inputs = before.get(cell.name, ("", ""))
        if (
            inputs != _inputs(cell)
            or (new := digest(cell)) == old
            or not call.store.adopt(old, new, cell.outs)
        ):
            continue
        done[cell.name] = new
        save_json(RECORD, done)
        call.say(f"accept {cell.name} of {part}, made by {call.store.record[new]['revision']}")
        count += 1
    return count


def _of(stages: Sequence[str]) -> list[Cell]:
    """Return the cells of these stages in the current folder whose inputs are there."""
    chosen = [cell for cell in graph_of() if cell.name.partition("@")[0] in stages]
    return [cell for cell in chosen if all(Path(path).exists() for path in (*cell.deps, *cell.outs))]


def _inputs(cell: Cell) -> str:
    """Return the digest of a cell without its code."""
    data = tuple(dep for dep in cell.deps if not is_code(dep) and dep.split("/")[0] != "architectures")
    return digest(replace(cell, deps=data))
