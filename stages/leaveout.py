"""Train one member of an ensemble of leave-out classifiers: a fold of the classes plays the outliers.

Writes the member and the curves. A quickstart member takes seconds on two CPU cores.
"""

from pathlib import Path

import click

from sslood.cli.command import StageCommand, done
from sslood.core.files import read_metadata
from sslood.core.machine import machine
from sslood.core.seeding import stream_seed
from sslood.core.settings import checked, read_section, strict
from sslood.data.images.augment import Recipe
from sslood.nets.methods.leaveout import LeaveoutOptions, fold_classes, train_leaveout
from sslood.nets.methods.supervised import describe, load_split, make_views
from sslood.nets.networks.build import find_backbone, full_name, make_backbone, read_sizes, seeded
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.files import save_model
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.training.checkpoint import Checkpoint, fingerprint
from sslood.nets.training.curves import save_curves


@click.command(cls=StageCommand)
@click.option("--id_set", required=True, help="ID set file.")
@click.option("--backbone", required=True, help="Name of the backbone, e.g. densenet.")
@click.option("--sizes", required=True, help="FILE:KEY of the backbone's section.")
@click.option("--fold", required=True, type=int, help="Which fold is left out.")
@click.option("--recipe", required=True, help="FILE:KEY of the augmentation's section.")
@click.option("--epochs", required=True, type=int)
@click.option("--batch_size", required=True, type=int, help="Kept, and as many left-out, images a step.")
@click.option("--lr", required=True, type=float)
@click.option("--schedule", required=True, help="steps, cosine or constant.")
@click.option("--milestones", required=True, multiple=True, type=int, help="Epochs, for the schedule steps.")
@click.option("--gamma", required=True, type=float, help="Factor at each milestone.")
@click.option("--momentum", required=True, type=float)
@click.option("--nesterov/--no-nesterov", required=True)
@click.option("--weight_decay", required=True, type=float)
@click.option("--beta", required=True, type=float, help="Weight of the entropy margin.")
@click.option("--margin", required=True, type=float, help="Entropy margin in nats.")
@click.option("--folds", required=True, multiple=True, type=int, help="All folds: 0, 1, …")
@click.option("--seed", required=True, type=int, help="Seed of the folds and of all members.")
@click.option("--save_every", required=True, type=int, help="Epochs between checkpoints.")
@click.option("--out", required=True, help="Model file to write.")
@click.option("--out_curves", required=True, help="CSV of curves to write.")
def main(id_set, backbone, sizes, fold, recipe, out, out_curves, **section):
    options = strict(LeaveoutOptions, section, "leaveout")
    views = checked(Recipe, read_section(recipe), recipe)
    here = machine()
    meta = read_metadata(id_set, kind="set")
    kept, left = fold_classes(len(meta["classes"]), options.folds, fold, options.seed)
    seed = stream_seed(options.seed, "leaveout", fold)
    size = read_sizes(backbone, sizes)
    arch = full_name(backbone, size)
    with seeded(seed, arch):
        network = make_backbone(backbone, size, channels=meta["channels"])
        model = Model(network, build_head(network.feature_dim, len(kept))).to(here.device)
    sets = [load_split(id_set, split, here.device) for split in ("train", "validation")]
    settings = describe(options, fold=fold, left_out=left, recipe=vars(views))
    code = "stages.leaveout", find_backbone(backbone).__module__
    identity = fingerprint({**settings, "arch": arch}, [Path(id_set)], *code)
    checkpoint = Checkpoint(here.scratch, f"leaveout-{backbone}-{fold}", identity)
    shown = make_views(views, meta, seed, here.device)
    common = {"options": options, "views": shown, "seed": seed, "machine": here, "checkpoint": checkpoint}
    curves = train_leaveout(model, *sets, kept=kept, **common)
    card = ModelCard.for_set(
        meta, name=f"leaveout_{backbone}_{fold}", arch=arch, objective="leaveout", seed=options.seed,
        head_classes=kept, feature_dim=network.feature_dim, settings=settings,
    )  # fmt: skip
    save_model(out, {"backbone": network, "head": model.need_head()}, card)
    save_curves(out_curves, curves)
    checkpoint.delete()
    last = curves[-1]
    done(
        out,
        f"{len(kept)} classes kept, ID validation accuracy {last['validation_accuracy']:.4f}, "
        f"AUROC against the {len(left)} left out {last['validation_auroc']:.4f}",
    )


if __name__ == "__main__":
    main()
