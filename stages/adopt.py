"""Make a model from outside one of ours: any checkpoint, in its publisher's layout, checked against a floor.

Reads an entry of `models` in params.yaml, writes a model file like those of `pretrain` and `train`. Seconds.
"""

from dataclasses import replace

import click

from sslood.cli.command import StageCommand, done
from sslood.cli.options import section_option
from sslood.cli.sections import item_options
from sslood.core.files import load_tensors
from sslood.core.machine import machine
from sslood.core.needs import CLASSIFIED, check_needs, may_be_left_out
from sslood.core.settings import read_section
from sslood.nets.adopting.adoption import (
    build,
    card_of,
    check_entry,
    check_floors,
    final_linear,
    measure,
    read_entry,
)
from sslood.nets.adopting.layouts import weights_of
from sslood.nets.adopting.weights import located, read_checkpoint
from sslood.nets.networks.files import save_model


@click.command(cls=StageCommand)
@click.option("--name", required=True, help="Name of the model, without the seed.")
@section_option("entry", "its entry", lambda where, _: read_entry(read_section(where), where))
@click.option("--id_set", required=True, help="ID set file.")
@click.option("--seed", required=True, type=int, help="Seed of its evaluation.")
@item_options("id")
@click.option("--out", required=True, help="Model file to write.")
@may_be_left_out("model")
def main(name, entry, id_set, seed, out):
    settings, rules = read_entry(read_section(entry), entry)
    splits = [f"{split}.{part}" for split in ("train", "validation") for part in ("images", "labels")]
    sets, meta = load_tensors(id_set, kind="set", only=splits)
    if rules.head or settings.min_knn > 0:
        check_needs((CLASSIFIED,), sets["train.labels"], where=f"{entry}: an accuracy ")
    check_entry(settings, rules, meta, entry)
    path, sha256 = located(settings.weights, settings.sha256)
    settings = replace(settings, sha256=sha256)  # all of it, also where the params have its first digits
    state = weights_of(read_checkpoint(path), rules, f"{entry}, {path.name}")
    classes = list(map(str, meta["classes"]))
    model, width = build(settings, state, rules, classes, entry)
    note = final_linear(settings, model.backbone, width)
    model.to(machine().device)
    values = measure(model, settings, sets, len(classes), entry)
    check_floors(values, settings, entry)
    modules = {"backbone": model.backbone} | ({"head": model.head} if model.head is not None else {})
    save_model(out, modules, card_of(settings, rules, values, meta, name=name, seed=seed, width=width))
    text = ", ".join(f"{key} {value:.4f}" for key, value in values.items())
    if note:
        click.echo(f"Note: {note}.", err=True)
    origin = f"{settings.architecture} with the weights of {path.name} (sha256 {sha256})"
    done(out, f"{origin}; ID validation: {text}")


if __name__ == "__main__":
    main()
