"""One run of pretraining, from the file of an ID set to modules with a card.

It is the same for an objective, for a variant of one, and for a cell of a sweep.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from sslood.core.files import load_tensors, read_metadata
from sslood.core.machine import machine
from sslood.core.needs import check_needs
from sslood.data.images.chunked import open_split
from sslood.nets.networks.build import BACKBONES, build_backbone, parse_name, seeded
from sslood.nets.networks.card import ModelCard
from sslood.nets.selfsup.objective import Plan
from sslood.nets.selfsup.pretraining import Pretraining
from sslood.nets.training.checkpoint import Checkpoint, fingerprint
from sslood.nets.training.ranks import rank, session

READ = ("train.images", "train.labels", "validation.images", "validation.labels")  # never the test split


class Trained(NamedTuple):
    """A run that has ended: what its model file holds, its curves, and the checkpoint to delete."""

    modules: Mapping[str, nn.Module]
    card: ModelCard
    curves: Sequence[Mapping[str, float]]
    checkpoint: Checkpoint

    def summary(self) -> str:
        """Return the epochs and the last values of the curves, as part of a sentence."""
        last = [f"{k} {v:.4g}" for k, v in self.curves[-1].items() if k in ("loss", "knn", "effective_rank")]
        return f"{self.card.name} after {self.card.epochs} epochs, {', '.join(last)}"


def inputs_of(plan: Plan, arch: str, id_set: str | Path) -> str:
    """Return the fingerprint of what a run reads beside its settings: the bytes of its set, and its code."""
    code = __name__, plan.kind.__module__, f"{BACKBONES}.{parse_name(arch)[0]}"
    return fingerprint({}, [Path(id_set)], *code)


def identity_of(plan: Plan, arch: str, seed: int, inputs: str) -> str:
    """Return the fingerprint of a run: its settings, its network, and `inputs`, what `inputs_of` says."""
    about = {"objective": plan.objective, "arch": arch, "seed": seed, "inputs": inputs}
    return fingerprint({**plan.recorded(), **about}, [])


def pretrain(
    plan: Plan, name: str, *, arch: str, seed: int, id_set: str, identity: str = ""
) -> Trained | None:
    """Train an encoder of the architecture `arch` on ID train, and return it as the model `name`.

    Goes on where an earlier run of the same identity was stopped (identity: what `identity_of` says, where
    that is known). Of several processes only the first returns a model, the others None. Raises LeftOut if
    the set lacks what the objective needs, InputError if the training diverges or does not fit into memory.
    """
    meta = read_metadata(id_set, kind="set")
    tensors, _ = load_tensors(id_set, only=READ[1:] if "stream" in meta else READ)
    check_needs(plan.kind.needs, tensors["train.labels"], where=f"{id_set}: {name} ")
    identity = identity or identity_of(plan, arch, seed, inputs_of(plan, arch, id_set))
    with session(machine(plan.training.precision)) as here:
        with seeded(seed):
            network = build_backbone(arch, channels=meta["channels"])
            method = plan.kind(network, plan.own, classes=len(meta["classes"]))
        sets = [open_split(tensors, meta, one, here.device, id_set) for one in ("train", "validation")]
        task = Pretraining(
            f"pretrain {name}-{seed}", network, method, plan.training, plan.recipes, *sets,
            mean=meta["mean"], std=meta["std"], seed=seed, machine=here,
        )  # fmt: skip
        checkpoint = Checkpoint(here.scratch, f"pretrain-{name}-{seed}", identity)
        curves = task.run(checkpoint)
        if rank() > 0:
            return None
    card = ModelCard.for_set(
        meta, name=name, feature_dim=network.feature_dim, settings=plan.recorded(),
        epochs=plan.training.epochs if method.trains else 0, objective=plan.objective, arch=arch, seed=seed,
        **method.metadata(),
    )  # fmt: skip
    return Trained({"backbone": network, **method.saved_modules()}, card, curves, checkpoint)
