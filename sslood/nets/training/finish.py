"""The end of a run: its files, and no checkpoint any more."""

from collections.abc import Mapping, Sequence

from torch import nn

from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.files import save_model
from sslood.nets.training.checkpoint import Checkpoint
from sslood.nets.training.curves import save_curves


def finish(
    out: str,
    out_curves: str,
    modules: Mapping[str, nn.Module],
    card: ModelCard,
    curves: Sequence[Mapping[str, float]],
    checkpoint: Checkpoint,
) -> None:
    """Write the model file and the curves of a run, then delete its checkpoint."""
    save_model(out, modules, card)
    save_curves(out_curves, curves)
    checkpoint.delete()
