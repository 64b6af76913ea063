"""Runs of leave-out members: what an ensemble shares, each member's task, and all of them together."""

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock
from torch import Tensor

from sslood.core.errors import LeftOut
from sslood.core.files import read_metadata
from sslood.core.machine import Machine, machine
from sslood.core.seeding import stream_seed
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.leaveout import (
    Leaveout,
    LeaveoutSettings,
    PlainMember,
    Watched,
    check_folds,
    fold_classes,
    tuning_images,
)
from sslood.nets.methods.supervised import load_split
from sslood.nets.methods.together import Together, draws, how_together
from sslood.nets.networks.build import BACKBONES, build_backbone, seeded
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.families import FAMILIES
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.training.checkpoint import Checkpoint, fingerprint


class Run(NamedTuple):
    """The training of one member. kept, left: classes; settings: for its metadata."""

    task: Watched
    checkpoint: Checkpoint
    kept: list[int]
    left: list[int]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Ensemble:
    """What the members of an ensemble have in common.

    backbone: its name; arch: with its sizes. loss: margin, plain or full. code: the module that checkpoints
    belong to.
    """

    id_set: str
    tuning_set: str
    backbone: str
    arch: str
    loss: str
    options: LeaveoutSettings
    recipe: AugmentSettings
    code: str

    @property
    def family(self) -> str:
        return FAMILIES[self.loss]

    @property
    def settings(self) -> LeaveoutSettings:
        return self.options.for_all_classes() if self.loss == "full" else self.options

    @cached_property
    def meta(self) -> dict[str, Any]:
        return read_metadata(self.id_set, kind="set")

    @cached_property
    def machine(self) -> Machine:
        return machine(self.options.precision)

    @cached_property
    def _sets(self) -> tuple[ResidentSet, ResidentSet, Tensor | None]:
        """ID train, ID validation, and what the published rule selects on."""
        device = self.machine.device
        train, validation = (load_split(self.id_set, split, device) for split in ("train", "validation"))
        return train, validation, tuning_images(self.settings, self.tuning_set, device)

    def run(self, fold: int) -> Run:
        """Return the training of a member, at its start. InputError, LeftOut as of the member's task."""
        options = self.settings
        kept, left = self._classes(options, fold)
        seed = stream_seed(options.seed, "leaveout", fold)
        with seeded(seed, self.arch):
            network = build_backbone(self.arch, channels=self.meta["channels"])
            head = build_head(network.feature_dim, len(kept))
        settings = options.recorded(loss=self.loss, fold=fold, left_out=left, recipe=vars(self.recipe))
        train, validation, tuning = self._sets
        task = (Leaveout if self.loss == "margin" else PlainMember)(
            Model(network, head), train, validation, kept=kept, tuning=tuning, recipe=self.recipe,
            preprocessing=self.meta, label=f"{self.family} {self.backbone}-{fold}", settings=options,
            seed=seed, machine=self.machine,
        )  # fmt: skip
        return Run(task, self._checkpoint(f"{fold}", settings), kept, left, settings)

    def _classes(self, options: LeaveoutSettings, fold: int) -> tuple[list[int], list[int]]:
        """Return the classes that a member knows, and those that it leaves out."""
        count = len(self.meta["classes"])
        if self.loss != "full":
            return fold_classes(count, options.folds, fold, options.seed)
        check_folds(options.folds, fold)
        return list(range(count)), []

    def _checkpoint(self, name: str, settings: dict[str, Any]) -> Checkpoint:
        inputs = [Path(path) for path in (self.id_set, self.tuning_set)]
        inputs = inputs if self.options.select == "published" else inputs[:1]
        code = self.code, f"{BACKBONES}.{self.backbone}"
        identity = fingerprint({**settings, "arch": self.arch}, inputs, *code)
        return Checkpoint(self.machine.scratch, f"{self.family}-{self.backbone}-{name}", identity)

    def card(self, fold: int, run: Run) -> ModelCard:
        """Return the card of a member that was trained."""
        return ModelCard.for_set(
            self.meta, name=f"{self.family}_{self.backbone}_{fold}", arch=self.arch, objective="leaveout",
            seed=self.options.seed, head_classes=run.kept, feature_dim=run.task.model.need_head().in_features,
            settings=run.settings, epochs=run.task.epoch,
        )  # fmt: skip

    def train_together(self, fold: int, own: Run) -> None:
        """Train all members as SSLOOD_TOGETHER asks, unless that of `fold` is there already.

        Each leaves the checkpoint of a finished training, from which its own stage goes on with no epoch
        left. A second process waits for the first, and then finds its member. Members that the sets do not
        allow are left to their own stages, which say why.
        """
        how, here = how_together(), self.machine
        if how == "0":
            return
        here.scratch.mkdir(parents=True, exist_ok=True)
        with FileLock(here.scratch / f"{self.family}-{self.backbone}.lock"):
            if self._finished(own):
                return
            runs = {fold: own}
            for other in self.options.folds:
                try:
                    run = own if other == fold else self.run(other)
                except LeftOut:
                    continue
                if not self._finished(run):
                    runs[other] = run
            runs = dict(sorted(runs.items()))
            label = f"{self.family} {self.backbone}, members {', '.join(map(str, runs))}"
            if how == "stacked" and draws(own.task.model.backbone):
                print(
                    f"{label}: dropout draws for each member alone, so they train in turns", file=sys.stderr
                )
            settings = {**self.options.recorded(recipe=vars(self.recipe)), "loss": self.loss, "how": how}
            together = self._checkpoint("together", {**settings, "members": list(runs)})
            tasks = {f"{place}": run.task for place, run in runs.items()}
            checkpoints = {f"{place}": run.checkpoint for place, run in runs.items()}
            Together(label, tasks, stacked=how == "stacked").train(together, checkpoints)

    def _finished(self, run: Run) -> bool:
        state = run.checkpoint.load() if run.checkpoint.path.is_file() else None
        return state is not None and len(state["curves"]) == self.options.epochs
