"""Write the weights of a model as a checkpoint in a publisher's layout, for code that reads those.

    python -m tools.publish --model data/models/byol-0.safetensors --layout byol --out byol.pth.tar

The layouts are those that the stage `adopt` reads (sslood/nets/adopting/layouts.yaml); the file is one of
torch.save. What is printed is an entry of `models`, so that any checkout can adopt the file: `min_knn` or
`min_accuracy` is yours to raise. Of a model with a classifier, a layout without one takes the encoder alone.
"""

import hashlib
import io
from pathlib import Path

import click
import torch
import yaml

from sslood.cli.command import Command
from sslood.core.errors import InputError
from sslood.core.files import atomic
from sslood.nets.adopting.layouts import Layout, find_layout
from sslood.nets.adopting.publishing import checkpoint_of
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.files import load_model
from sslood.nets.networks.model import Model

FLOOR = 0.1  # of the printed entry: a start, which a user raises


def weights_for(model: Model, layout: Layout, where: str) -> dict[str, torch.Tensor]:
    """Return name -> tensor of the backbone, and of the head under the layout's name for it."""
    weights = dict(model.backbone.state_dict())
    if layout.head:
        if model.head is None:
            raise InputError(f"{where}: has no classifier, which this layout holds; choose another layout")
        weights |= {f"{layout.head}.{part}": value for part, value in model.head.state_dict().items()}
    return {name: value.contiguous() for name, value in weights.items()}


def entry_of(card: ModelCard, layout: str, has_head: bool, file: Path) -> dict[str, object]:
    """Return the entry of `models` that adopts the file."""
    floor = {"classes": card.classes, "min_accuracy": FLOOR} if has_head else {"min_knn": FLOOR}
    return {
        "weights": str(file),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "architecture": card.arch,
        "layout": layout,
        "size": card.size,
        "channels": card.channels,
        "mean": list(card.mean),
        "std": list(card.std),
        "saw_validation": False,
        **floor,
    }


@click.command(cls=Command)
@click.option("--model", required=True, help="Model file, as pretrain, train and others write it.")
@click.option("--layout", "name", required=True, help="Layout of the checkpoint.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Checkpoint to write.")
def main(model: str, name: str, out: Path) -> None:
    layout = find_layout(name)
    network, card = load_model(model)
    content = checkpoint_of(weights_for(network, layout, model), layout, f"{model}, layout {name}")
    buffer = io.BytesIO()  # of a file, torch would write the name into it
    torch.save(content, buffer)
    with atomic(out) as part:
        part.write_bytes(buffer.getvalue())
    click.echo(yaml.safe_dump({card.name: entry_of(card, name, bool(layout.head), out)}, sort_keys=False))


if __name__ == "__main__":
    main()
