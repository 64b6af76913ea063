"""Make a model from outside one of ours: any checkpoint, in its publisher's layout, held against a floor.

Reads an entry of `models` in params.yaml, writes a model file like those of `pretrain` and `train`. Seconds.
"""

import click

from sslood.cli.command import StageCommand, done
from sslood.core.files import load_tensors
from sslood.core.machine import machine
from sslood.core.settings import read_section
from sslood.nets.adopting.adoption import build, check_entry, check_floors, described, measure, read_entry
from sslood.nets.adopting.layouts import weights_of
from sslood.nets.adopting.weights import locate_weights, read_checkpoint
from sslood.nets.networks.files import save_model


@click.command(cls=StageCommand)
@click.option("--name", required=True, help="Name of the model, without the seed.")
@click.option("--entry", required=True, help="FILE:KEY of its entry.")
@click.option("--id_set", required=True, help="ID set file.")
@click.option("--seed", required=True, type=int, help="Seed of its evaluation.")
@click.option("--out", required=True, help="Model file to write.")
def main(name, entry, id_set, seed, out):
    """Adopt one model."""
    wanted, rules = read_entry(read_section(entry), entry)
    splits = [f"{split}.{part}" for split in ("train", "validation") for part in ("images", "labels")]
    sets, meta = load_tensors(id_set, kind="set", only=splits)
    check_entry(wanted, rules, meta, entry)
    path = locate_weights(wanted.weights, wanted.sha256)
    state = weights_of(read_checkpoint(path), rules, f"{entry}, {path.name}")
    classes = list(map(str, meta["classes"]))
    model = build(wanted, state, rules, classes, entry).to(machine().device)
    found = measure(model, wanted, sets, len(classes))
    check_floors(found, wanted, entry)
    modules = {"backbone": model.backbone} | ({"head": model.head} if model.head is not None else {})
    save_model(out, modules, described(wanted, rules, model, found, meta, name=name, seed=seed))
    values = ", ".join(f"{key} {value:.4f}" for key, value in found.items())
    done(out, f"{wanted.architecture} with the weights of {path.name}; ID validation: {values}")


if __name__ == "__main__":
    main()
