"""What detectors and stages need of an image set, and what becomes of a row whose set lacks it.

A need is declared where what has it is defined; `download` knows them all (`sslood.data.sets.limits`, which
a test holds against the declarations). Whatever finds a need unmet raises `LeftOut`. The row is then left out
with that reason: in the results of an evaluation, or in a file that holds nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sslood.core.errors import LeftOut
from sslood.core.files import load_tensors, save_json, save_tensors, save_text

SHOWN = 5  # classes that a message names


class Shortage(NamedTuple):
    """What there is too little of: `found` of `what`, where `needed` are needed."""

    what: str
    found: int
    needed: int

    def __str__(self) -> str:
        return f"needs {self.needed} {self.what}, there {'is' if self.found == 1 else 'are'} {self.found}"


@dataclass(frozen=True)
class Need:
    """Numbers that one split of a set must reach; 0 asks for nothing.

    images: in all. classes: that have labelled images. per_class: images of every class that is there, where
    images without a label are one class. spare: images beyond per_class of every class.
    """

    split: str = "train"
    images: int = 0
    classes: int = 0
    per_class: int = 0
    spare: int = 0

    def shortage(self, labels: np.ndarray, names: Sequence[str] = ()) -> Shortage | None:
        """Return what a split with labels [N] (-1 unknown) lacks, None if nothing; names: of its classes."""
        known, counts = np.unique(labels, return_counts=True)
        needed = max(self.images, self.per_class * len(known) + self.spare)
        if (classes := int((known >= 0).sum())) < self.classes:
            return Shortage(
                f"labelled class{'es' * (self.classes > 1)} in {self.split}", classes, self.classes
            )
        if len(known) and counts.min() < self.per_class:
            few = known[counts < self.per_class]
            of = " in the smallest class" if len(known) > 1 else ""
            if len(names) and few.min() >= 0:
                listed = ", ".join(str(names[label]) for label in few[:SHOWN])
                of = f" of {'class' if len(few) == 1 else 'classes'} {listed}{', …' * (len(few) > SHOWN)}"
            return Shortage(f"{self.split} images{of}", int(counts.min()), self.per_class)
        if len(labels) < needed:
            return Shortage(f"{self.split} image{'s' * (needed > 1)}", len(labels), needed)
        return None


Needs = tuple[Need, ...]
LABELS = Need(classes=1)
CLASSIFIED = Need(classes=2)  # what every classifier of the ID classes needs


def check_needs(needs: Needs, labels: np.ndarray | None, count: int = 0, where: str = "") -> None:
    """Raise LeftOut for the first need that labels [N] do not meet; None: `count` images without labels.

    where: what a message starts with, e.g. "FILE: KNN ".
    """
    labels = np.full(count, -1) if labels is None else labels
    for need in needs:
        if shortage := need.shortage(labels):
            raise LeftOut(str(shortage), where)


def check_set(needs: Needs, path: str | Path) -> None:
    """Raise LeftOut, naming the set, if the train split of its file does not meet these needs."""
    tensors, _ = load_tensors(path, kind="set", only=["train.labels"])
    try:
        check_needs(needs, tensors["train.labels"])
    except LeftOut as error:
        raise LeftOut(f"set {Path(path).stem} {error.reason}") from None


def may_be_left_out(kind: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate the body of a stage that writes `out`, a file of `kind` (and `out_curves`).

    Where it raises LeftOut, the file holds the reason alone, and whoever reads it raises LeftOut in turn.
    """

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        @wraps(body)
        def run(**values: Any) -> None:
            try:
                body(**values)
            except LeftOut as reason:
                save_tensors(values["out"], {}, kind=kind, metadata={"left_out": reason.reason})
                if "out_curves" in values:
                    save_text(values["out_curves"], "epoch\n")
                if "out_energies" in values:
                    save_json(values["out_energies"], {"left_out": reason.reason})
                print(f"Left out {values['out']}: {reason.reason}.")

        return run

    return decorate
