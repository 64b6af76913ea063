"""Train a classifier on the ID set from scratch, by a method with a name: what differs from `train`.

Writes the model and the curves of the run; the test split is never read.
"""

from dataclasses import fields
from pathlib import Path

import click

from sslood.cli.command import StageCommand, done
from sslood.cli.options import section_option, training_options
from sslood.cli.sections import item_options
from sslood.core.files import read_metadata
from sslood.core.machine import machine
from sslood.core.needs import check_set, may_be_left_out
from sslood.data.images.augment import read_recipe
from sslood.nets.methods.classify import ClassifySettings, labelled
from sslood.nets.methods.supervised import load_split
from sslood.nets.methods.variants import MIXING, NEEDS, Variant, read_method
from sslood.nets.networks.build import seeded
from sslood.nets.networks.card import check_fits, name_in
from sslood.nets.networks.files import load_named
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.training.checkpoint import Checkpoint, fingerprint
from sslood.nets.training.engine import Engine
from sslood.nets.training.finish import finish


def check_variant(where, given):
    shared = {field.name: given[field.name] for field in fields(ClassifySettings) if field.name in given}
    read_method(where, shared, f"{where.partition(':')[0]}:augment.classifier")


@click.command(cls=StageCommand)
@click.option("--method", required=True, help="Name of the method, and of the model without the seed.")
@click.option("--seed", required=True, type=int, help="Seed of all streams of the run.")
@section_option("variant", "the method's section", check_variant, checks_settings=True)
@click.option("--mixing_set", required=True, help="Set file of the pictures that PixMix mixes in.")
@click.option("--init_model", required=True, help="Model file whose backbone is the start.")
@item_options("mixing")
@training_options(ClassifySettings, read_recipe)
@may_be_left_out("model")
def main(method, seed, variant, id_set, mixing_set, init_model, recipe, out, out_curves, **section):
    own, options, views = read_method(variant, section, recipe)
    here = machine(options.precision)
    meta = read_metadata(id_set, kind="set")
    start, card = load_named(init_model, name_in(init_model, seed), seed)
    check_fits(card, meta, init_model)
    check_set(NEEDS, id_set)
    inputs, pictures = [id_set, init_model], None
    if views.pixmix:
        check_set(MIXING, mixing_set)
        check_fits(card, read_metadata(mixing_set, kind="set"), init_model, id_set=False)
        inputs, pictures = [*inputs, mixing_set], load_split(mixing_set, "train", here.device).images
    with seeded(seed, "head"):
        head = build_head(card.feature_dim, len(meta["classes"]))
    settings = options.recorded(init=card.name, recipe=vars(views), **vars(own))
    identity = fingerprint({**settings, "seed": seed}, [Path(path) for path in inputs], "stages.methods")
    checkpoint = Checkpoint(here.scratch, f"methods-{method}-{seed}", identity)
    train, validation = (load_split(id_set, split, here.device) for split in ("train", "validation"))
    train, options = labelled(train, options, seed)
    task = Variant(
        Model(start.backbone, head), train, validation, method=own, recipe=views, pictures=pictures,
        preprocessing=card.preprocessing, label=f"{method}-{seed}", settings=options, seed=seed, machine=here,
    )  # fmt: skip
    curves = Engine(task).train(checkpoint)
    card = card.replace(
        name=method, objective="method", seed=seed, head_classes=list(range(len(meta["classes"]))),
        projector=None, stochastic=None, epochs=None, settings=settings,
    )  # fmt: skip
    finish(out, out_curves, task.saved_modules(), card, curves, checkpoint)
    final = curves[-1]["validation_accuracy"]
    done(out, f"{method}, ID validation accuracy {final:.4f} after {len(curves)} epochs")


if __name__ == "__main__":
    main()
