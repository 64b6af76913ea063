"""Encoders that were pretrained before, in the scratch folder, by all that they depend on.

DVC runs a stage again when anything that it declares has changed. A variant's stage declares all objectives
and their constants, and a sweep's all its settings, so most runs again change nothing for a given encoder:
that one is copied. The folder `pretrained` of the scratch folder may be deleted at any time.
"""

import os
from contextlib import nullcontext
from pathlib import Path

from filelock import FileLock

from sslood.core.errors import InputError
from sslood.core.files import load_tensors, read_metadata, save_tensors, save_text
from sslood.core.machine import machine
from sslood.nets.selfsup.objective import Plan
from sslood.nets.selfsup.run import identity_of, pretrain
from sslood.nets.training.finish import finish

FOLDER = "pretrained"


class Kept:
    """The files of one finished run: a model of any name, and its curves."""

    def __init__(self, scratch: Path, identity: str):
        self.model = scratch / FOLDER / f"{identity[:32]}.safetensors"
        self.curves = self.model.with_suffix(".csv")

    def exists(self) -> bool:
        """Whether both files are there and whole; the curves are written last."""
        try:
            return self.curves.is_file() and bool(read_metadata(self.model, kind="model"))
        except InputError:
            return False

    def give(self, name: str, out: str | Path, out_curves: str | Path) -> None:
        """Write a copy of the model under the name `name`, and of its curves."""
        tensors, metadata = load_tensors(self.model, kind="model")
        save_tensors(out, tensors, kind="model", metadata={**metadata, "name": name})
        save_text(out_curves, self.curves.read_text(encoding="utf-8"))


def kept_run(plan: Plan, name: str, *, arch: str, seed: int, id_set: str, inputs: str) -> tuple[Kept, str]:
    """Return the files of a run, and a sentence about it; it is trained unless that was done before.

    If a stage beside this one trains it, wait for that. inputs: what `inputs_of` says. In all but the first
    of several processes the sentence is empty, and only the first may read the files. Raises as `pretrain`
    does.
    """
    identity = identity_of(plan, arch, seed, inputs)
    kept = Kept(machine(plan.training.precision).scratch, identity)
    kept.model.parent.mkdir(parents=True, exist_ok=True)
    alone = os.environ.get("WORLD_SIZE", "1") == "1"  # processes that train together must all come in
    with FileLock(kept.model.with_suffix(".lock")) if alone else nullcontext():
        if kept.exists():
            first = os.environ.get("RANK", "0") == "0"
            return kept, f"{name}, pretrained before with the same settings" if first else ""
        trained = pretrain(plan, name, arch=arch, seed=seed, id_set=id_set, identity=identity)
        if trained is None:
            return kept, ""
        finish(str(kept.model), str(kept.curves), *trained)
    return kept, trained.summary()
