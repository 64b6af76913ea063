"""Runs of training against outliers: the sets, candidates one after the other, and what was chosen."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from sslood.core.errors import InputError
from sslood.core.files import load_json, load_tensors, read_metadata
from sslood.core.machine import machine
from sslood.core.needs import check_set
from sslood.core.rounding import decimal
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.frozen import FrozenFeatures
from sslood.nets.methods.outlier_energies import Energies, energies_of, unreached
from sslood.nets.methods.outliers import AUXILIARY, NEEDS, Outliers, OutlierSettings
from sslood.nets.methods.supervised import load_split
from sslood.nets.networks.build import seeded
from sslood.nets.networks.card import ModelCard, check_fits
from sslood.nets.networks.files import load_named
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.training.checkpoint import Checkpoint, fingerprint
from sslood.nets.training.engine import Engine

MEASURED = ("validation_accuracy", "validation_auroc", "validation_oscr")


@dataclass(frozen=True)
class Inputs:
    """The files of a run: the start, ID set, outliers, tuning set, and the audit's word on the outliers.

    init: the name that the start must have, None for any.
    """

    init: str | None
    init_model: str
    id_set: str
    auxiliary: str
    tuning: str
    left_out: str


@dataclass(frozen=True)
class Tried:
    """A candidate that was trained. card: of the start, with all settings; epoch: that is kept, from 0."""

    task: Outliers
    card: ModelCard
    checkpoint: Checkpoint
    curves: list[dict[str, float]]
    epoch: int
    before: Energies
    after: Energies

    def measured(self, epoch: int) -> dict[str, Any]:
        """Return an epoch, counted from 1, and what was measured on validation after it."""
        return {"epoch": epoch + 1, **{key: decimal(self.curves[epoch][key]) for key in MEASURED}}


def start_model(
    init_model: str | Path, id_set: str | Path, seed: int, init: str | None = None
) -> tuple[Model, ModelCard, bool]:
    """Return (model with a head over all classes, the card of the start, whether that head is fresh).

    init: the name that the start must have, with this seed, None for any. InputError where it is another, or
    model and ID set do not match.
    """
    start, card = load_named(init_model, init, seed)
    check_fits(card, read_metadata(id_set, kind="set"), init_model)
    classes = list(range(len(card.classes)))
    fresh = card.head_classes != classes
    with seeded(seed, "head"):
        head = build_head(card.feature_dim, len(classes)) if fresh else start.need_head()
    return Model(start.backbone, head), card, fresh


def kept_outliers(path: str, left_out: str, label: str) -> tuple[np.ndarray, dict[str, int]]:
    """Return (positions in the train split of the set file `path` to train on, the audit's counts of it).

    left_out: the audit's JSON; label: of the run, which says how many are left out, if any. InputError if the
    audit does not know the set as it is, or leaves nothing of it.
    """
    name = Path(path).stem
    labels = load_tensors(path, kind="set", only=["train.labels"])[0]["train.labels"]
    found = dict(load_json(Path(left_out)).get(name, {}))
    positions = found.pop("positions", [])
    if found.get("n") != len(labels):
        raise InputError(
            f"{left_out}: knows no set {name!r} of {len(labels)} outliers; run `dvc repro audit`"
        )
    if len(positions) == len(labels):
        raise InputError(
            f"set {name!r}: all {len(labels)} outliers are ID or test images, or of an ID class; name "
            "another set in `auxiliary`"
        )
    if positions:
        why = f"are ID or test images, or of an ID class ({left_out})"
        tqdm.write(f"{label}: leaves out {len(positions)} of {len(labels)} outliers, which {why}")
    return np.setdiff1d(np.arange(len(labels)), np.array(positions, np.int64)), found


def try_all(
    inputs: Inputs,
    candidates: Sequence[OutlierSettings],
    *,
    name: str,
    mode: Literal["full", "head"],
    recipe: AugmentSettings,
    seed: int,
    code: str,
) -> list[Tried]:
    """Train every candidate from the same start, with the same random streams.

    code: the module that a checkpoint belongs to. InputError where inputs do not fit each other, LeftOut
    where a set is too small.
    """
    check_set(NEEDS, inputs.id_set)
    check_set(AUXILIARY, inputs.auxiliary)
    label = f"energy {name}-{seed}"
    rows, counts = kept_outliers(inputs.auxiliary, inputs.left_out, label)
    here, tried, frozen = machine(candidates[0].precision), list[Tried](), FrozenFeatures()
    train, validation = (load_split(inputs.id_set, split, here.device) for split in ("train", "validation"))
    whole = load_split(inputs.auxiliary, "train", "cpu")
    others = ResidentSet(whole.images[rows], whole.labels[rows], here.device)
    tuning = load_split(inputs.tuning, "validation", here.device)
    files = [Path(file) for file in (inputs.init_model, inputs.id_set, inputs.auxiliary, inputs.tuning)]
    for number, options in enumerate(candidates):
        model, card, fresh = start_model(inputs.init_model, inputs.id_set, seed, inputs.init)
        for file in (inputs.auxiliary, inputs.tuning):
            check_fits(card, read_metadata(file, kind="set"), inputs.init_model, id_set=False)
        settings = options.recorded(init=card.name, mode=mode, recipe=vars(recipe), auxiliary=counts)
        task = Outliers(
            model, train, validation, others, tuning.images, mode=mode, fresh_head=fresh, recipe=recipe,
            preprocessing=card.preprocessing, label=label, settings=options, seed=seed,
            machine=here, frozen=frozen,
        )  # fmt: skip
        identity = fingerprint({**settings, "rows": rows.tolist(), "seed": seed}, files, code)
        checkpoint = Checkpoint(here.scratch, f"energy-{name}-{seed}-{number}", identity)
        tried.append(_try(task, card.replace(settings={**settings, **task.margins}), checkpoint))
    return tried


def _try(task: Outliers, card: ModelCard, checkpoint: Checkpoint) -> Tried:
    """Train one candidate; afterwards its model is that of the kept epoch."""
    before = energies_of(task)
    curves = Engine(task).train(checkpoint)
    epoch = len(curves) - 1
    if task.best is not None:
        epoch = int(task.best.epoch)
        task.model.load_state_dict(task.best.model.state_dict())
    after = energies_of(task)
    own = task.proposed
    if own and (task.settings.margins == "fixed" or task.settings.gap > 0 or task.untrained):
        if advice := unreached(task.margins, after, own, fresh_head=task.untrained is not None):
            print(f"{task.label}: {advice}", file=sys.stderr)
    return Tried(task, card, checkpoint, curves, epoch, before, after)


def best_of(tried: Sequence[Tried]) -> Tried:
    """Return the candidate whose kept epoch has the highest OSCR on ID validation and the tuning set.

    OSCR asks for both, that outliers score higher and that ID images are classified correctly, see
    `separation`. The first of equal ones.
    """
    return max(tried, key=lambda one: one.measured(one.epoch)["validation_oscr"])


def choice(tried: Sequence[Tried], varied: Sequence[str]) -> dict[str, Any]:
    """Return what was chosen from, for metadata: of each candidate what varies, kept and last epoch."""
    return {
        "tried": [
            {
                **{key: one.card.settings[key] for key in varied},
                "kept": one.measured(one.epoch),
                "last": one.measured(len(one.curves) - 1),
            }
            for one in tried
        ]
    }


def to_show(tried: Sequence[Tried], varied: Sequence[str]) -> dict[str, Any]:
    """Return what tables show beside the energies, for a JSON file: counts of outliers, and what was chosen.

    Where there was nothing to choose, one candidate whose last epoch is kept anyway, only the counts;
    otherwise also `tried`, as in `choice`, and `best`, the place of the candidate that is kept.
    """
    best = best_of(tried)
    counts = {"outliers": best.card.settings["auxiliary"]}
    if not varied and best.task.best is None:
        return counts
    return {**counts, **choice(tried, varied), "best": [one is best for one in tried].index(True)}
