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
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import Model, save_model
from sslood.nets.networks.heads import build_head
from sslood.nets.training.checkpoint import Checkpoint, fingerprint
from sslood.nets.training.curves import save_curves


@click.command(cls=StageCommand)
@click.option("--id_set", required=True, help="ID set file.")
@click.option("--arch", required=True, help="Architecture, e.g. densenet-10-6.")
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
def main(id_set, arch, fold, recipe, out, out_curves, **section):
    options = strict(LeaveoutOptions, section, "leaveout")
    views = checked(Recipe, read_section(recipe), recipe)
    here = machine()
    meta = read_metadata(id_set, kind="set")
    kept, left = fold_classes(len(meta["classes"]), options.folds, fold, options.seed)
    seed = stream_seed(options.seed, "leaveout", fold)
    with seeded(seed, arch):
        backbone = build_backbone(arch, channels=meta["channels"])
        model = Model(backbone, build_head(backbone.feature_dim, len(kept))).to(here.device)
    sets = [load_split(id_set, split, here.device) for split in ("train", "validation")]
    settings = describe(options, fold=fold, left_out=left, recipe=vars(views))
    identity = fingerprint({**settings, "arch": arch}, [Path(id_set)], "stages.leaveout")
    checkpoint = Checkpoint(here.scratch, f"leaveout-{arch}-{fold}", identity)
    shown = make_views(views, meta, seed, here.device)
    common = {"options": options, "views": shown, "seed": seed, "machine": here, "checkpoint": checkpoint}
    curves = train_leaveout(model, *sets, kept=kept, **common)
    preprocessing = {key: meta[key] for key in ("size", "channels", "mean", "std", "resize", "classes")}
    own = {"name": f"leaveout_{arch}_{fold}", "arch": arch, "objective": "leaveout", "seed": options.seed}
    rest = {"id": meta["name"], "head_classes": kept, "feature_dim": backbone.feature_dim, "projector": None}
    modules = {"backbone": backbone, "head": model.head}
    save_model(out, modules, {**preprocessing, **own, **rest, "settings": settings})
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
