"""Run the cells of a sweep: pretrain an encoder, embed all sets, score and probe, keep the numbers.

What a cell found is kept in the scratch folder under a fingerprint of all that it depends on, and so is its
encoder. So a sweep that was stopped goes on at the cell where it was, and a changed level or detector runs
what it concerns.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from tqdm import tqdm

from sslood.core.errors import InputError, as_line
from sslood.core.files import load_json, save_json
from sslood.core.machine import machine
from sslood.nets.selfsup.kept import kept_run
from sslood.nets.selfsup.run import inputs_of
from sslood.nets.training.checkpoint import fingerprint
from sslood.sweeps.cells import Cell
from sslood.sweeps.evaluated import Evaluation, Images, evaluated
from sslood.sweeps.grids import shown

FOLDER = "sweeps"


@dataclass
class Found:
    """What cells gave: rows of scores and of encoders, and why cells have none.

    scores: one row per cell, detector and set; encoders: one row per cell. left_out: {cell, or cell and
    detector: reason} of those that their settings or sets do not allow; broken: {cell: error} of those that
    ended otherwise.
    """

    scores: list[dict[str, Any]] = field(default_factory=list)
    encoders: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return (scores, encoders) as frames."""
        return pd.DataFrame(self.scores), pd.DataFrame(self.encoders)

    def add(self, cell: Cell, record: Mapping[str, Any], roles: Mapping[str, str]) -> None:
        """Add what a cell gave."""
        number = (int, float)
        own = {key: one if isinstance(one, number) else shown(one) for key, one in cell.factors.items()}
        self.encoders.append({**own, **record["encoder"]})
        for detector, sets in record["scores"].items():
            for name, metrics in sets.items():
                about = {"detector": detector, "set": name, "role": roles[name]}
                self.scores.append({**own, **about, **metrics})
        self.left_out |= {f"{cell.name}, {name}": why for name, why in record["left_out"].items()}


class Keys:
    """Fingerprints of cells. What many cells share, images and code, is read once."""

    def __init__(self, evaluation: Evaluation, images: Images):
        files = [Path(images.folder) / f"{name}.safetensors" for name in images.roles]
        about = {"roles": images.roles, "id": images.id, "evaluation": evaluation.recorded()}
        self.evaluation = fingerprint(about, files, *evaluation.code())
        self.images, self._trained = images, dict[tuple[str, str], str]()

    def trained(self, cell: Cell) -> str:
        """Return the fingerprint of what a cell's training reads, see `inputs_of`."""
        key = cell.plan.objective, cell.arch
        if key not in self._trained:
            self._trained[key] = inputs_of(cell.plan, cell.arch, self.images.id_set)
        return self._trained[key]

    def of(self, cell: Cell) -> str:
        """Return the fingerprint of all that a cell's numbers depend on."""
        about = {"plan": cell.plan.recorded(), "objective": cell.plan.objective, "arch": cell.arch}
        rest = {"seed": cell.seed, "trained": self.trained(cell), "evaluation": self.evaluation}
        return fingerprint({**about, **rest}, [])[:32]


def run_sweep(cells: Sequence[Cell], evaluation: Evaluation, images: Images, label: str) -> Found:
    """Return what all cells gave. One that fails is named, and the others run.

    Raises InputError if no cell gave anything, OSError where nothing more can be written.
    """
    found, keys = Found(), Keys(evaluation, images)
    for cell in tqdm(cells, desc=label, unit="cell", disable=None):
        try:
            found.add(cell, _record(cell, evaluation, images, keys), images.roles)
            continue
        except InputError as error:  # diverged, too large for the memory, too few images
            found.left_out[cell.name] = as_line(error)
        except OSError:  # a full disk concerns every cell
            raise
        except Exception as error:
            found.broken[cell.name] = f"{type(error).__name__}: {as_line(error)}"
        tqdm.write(f"{label}: left out {cell.name}: {(found.left_out | found.broken)[cell.name]}")
    if not found.encoders:
        name, reason = next(iter((found.broken | found.left_out).items()))
        raise InputError(f"{label}: no cell has results; the first, {name}: {reason}")
    return found


def _record(cell: Cell, evaluation: Evaluation, images: Images, keys: Keys) -> dict[str, Any]:
    """Return what a cell gave, now or before; if a sweep beside this one runs it, wait for that."""
    here, own = machine(cell.plan.training.precision), keys.of(cell)
    file = here.scratch / FOLDER / f"{own}.json"
    with suppress(InputError):
        return load_json(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        with suppress(InputError):  # recorded while this one waited
            return load_json(file)
        if here.compile:
            torch.compiler.reset()  # the graphs of earlier cells would count against the limit of this one
        kept, _ = kept_run(
            cell.plan, f"sweep-{own[:12]}", arch=cell.arch, seed=cell.seed, id_set=images.id_set,
            inputs=keys.trained(cell),
        )  # fmt: skip
        record = evaluated(kept, cell.seed, evaluation, images, here.scratch / FOLDER / own)
        save_json(file, record)
    return record
