"""Fine-tune a classifier (or an encoder with a fresh head) so that auxiliary outliers get a high energy.

Writes the model and the curves; the margins used stand in the model's metadata. A quickstart run takes
seconds on two CPU cores.
"""

from pathlib import Path

import click

from sslood.cli.command import StageCommand, done
from sslood.core.files import read_metadata
from sslood.core.machine import machine
from sslood.core.settings import checked, read_section, strict
from sslood.data.images.augment import Recipe
from sslood.nets.methods.energy import EnergyOptions, choose_margins, start_model, train_energy
from sslood.nets.methods.supervised import describe, load_split, make_views
from sslood.nets.networks.files import check_fits, save_model
from sslood.nets.training.checkpoint import Checkpoint, fingerprint
from sslood.nets.training.curves import save_curves


@click.command(cls=StageCommand)
@click.option("--seed", required=True, type=int, help="Seed of all streams of the run.")
@click.option("--id_set", required=True, help="ID set file.")
@click.option("--auxiliary", required=True, help="Set file whose train split holds the auxiliary outliers.")
@click.option("--init_model", required=True, help="Model file to start from.")
@click.option("--name", required=True, help="Name of the model, without the seed.")
@click.option("--mode", required=True, type=click.Choice(["full", "head"]), help="What is trained.")
@click.option("--recipe", required=True, help="FILE:KEY of the augmentation's section.")
@click.option("--epochs", required=True, type=int)
@click.option("--batch_size", required=True, type=int)
@click.option("--auxiliary_batch_size", required=True, type=int)
@click.option("--lr", required=True, type=float)
@click.option("--final_lr", required=True, type=float)
@click.option("--momentum", required=True, type=float)
@click.option("--nesterov/--no-nesterov", required=True)
@click.option("--weight_decay", required=True, type=float)
@click.option("--weight", required=True, type=float, help="Weight of the energy term.")
@click.option("--margins", required=True, help="auto (from the start model's energies) or fixed.")
@click.option("--m_in", required=True, type=float, help="Used with fixed margins.")
@click.option("--m_out", required=True, type=float, help="Used with fixed margins.")
@click.option("--save_every", required=True, type=int, help="Epochs between checkpoints.")
@click.option("--out", required=True, help="Model file to write.")
@click.option("--out_curves", required=True, help="CSV of curves to write.")
def main(seed, id_set, auxiliary, init_model, name, mode, recipe, out, out_curves, **section):
    options = strict(EnergyOptions, section, "energy")
    views = checked(Recipe, read_section(recipe), recipe)
    here = machine()
    model, meta, fresh = start_model(init_model, id_set, seed, here.device)
    sets = [load_split(id_set, split, here.device) for split in ("train", "validation")]
    outliers = load_split(auxiliary, "train", here.device)
    check_fits(meta, read_metadata(auxiliary, kind="set"), init_model, id_set=False)
    seen = make_views(views, meta, seed, here.device)
    common = {"options": options, "views": seen, "machine": here}
    margins = choose_margins(model, sets[0], outliers, fresh_head=fresh, **common)
    settings = describe(options, init=meta["name"], mode=mode, recipe=vars(views))
    inputs = [Path(path) for path in (id_set, auxiliary, init_model)]
    identity = fingerprint({**settings, "seed": seed}, inputs, "stages.energy")
    checkpoint = Checkpoint(here.scratch, f"energy-{name}-{seed}", identity)
    bounds = {key: margins[key] for key in ("m_in", "m_out")}
    curves = train_energy(
        model, *sets, outliers, mode=mode, **bounds, seed=seed, checkpoint=checkpoint, **common
    )
    changed = {"name": name, "objective": "energy", "seed": seed, "projector": None}
    head_classes = list(range(model.head.out_features))
    final = {**meta, **changed, "head_classes": head_classes, "settings": {**settings, **margins}}
    save_model(out, {"backbone": model.backbone, "head": model.head}, final)
    save_curves(out_curves, curves)
    checkpoint.delete()
    last = curves[-1]
    done(
        out,
        f"ID validation accuracy {last['validation_accuracy']:.4f}, "
        f"margins {bounds['m_in']:.3g} and {bounds['m_out']:.3g}",
    )


if __name__ == "__main__":
    main()
