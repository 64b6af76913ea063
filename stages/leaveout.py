"""Train one member of an ensemble of leave-out classifiers: a fold of the classes plays the outliers.

Writes the member and the curves. A quickstart member takes seconds on two CPU cores.
"""

from pathlib import Path

import click

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, setting_options
from sslood.core.files import read_metadata
from sslood.core.machine import machine
from sslood.core.seeding import stream_seed
from sslood.core.settings import checked, read_section
from sslood.data.images.augment import Recipe
from sslood.nets.methods.leaveout import Leaveout, LeaveoutSettings, fold_classes
from sslood.nets.methods.supervised import load_split
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import Model, save_model
from sslood.nets.networks.heads import build_head
from sslood.nets.training.checkpoint import Checkpoint, fingerprint
from sslood.nets.training.curves import save_curves
from sslood.nets.training.engine import Engine
from sslood.nets.training.views import views_of


@click.command(cls=StageCommand)
@click.option("--id_set", required=True, help="ID set file.")
@click.option("--arch", required=True, help="Architecture, e.g. densenet-10-6.")
@click.option("--fold", required=True, type=int, help="Which fold is left out.")
@click.option("--recipe", required=True, help="FILE:KEY of the augmentation's section.")
@setting_options(LeaveoutSettings)
@click.option("--out", required=True, help="Model file to write.")
@click.option("--out_curves", required=True, help="CSV of curves to write.")
def main(id_set, arch, fold, recipe, out, out_curves, **section):
    options = read_settings(LeaveoutSettings, section, where="leaveout")
    augmentation = checked(Recipe, read_section(recipe), recipe)
    here = machine(options.precision)
    meta = read_metadata(id_set, kind="set")
    kept, left = fold_classes(len(meta["classes"]), options.folds, fold, options.seed)
    seed = stream_seed(options.seed, "leaveout", fold)
    with seeded(seed, arch):
        backbone = build_backbone(arch, channels=meta["channels"])
        model = Model(backbone, build_head(backbone.feature_dim, len(kept)))
    settings = options.recorded(fold=fold, left_out=left, recipe=vars(augmentation))
    identity = fingerprint({**settings, "arch": arch}, [Path(id_set)], "stages.leaveout")
    checkpoint = Checkpoint(here.scratch, f"leaveout-{arch}-{fold}", identity)
    sets = [load_split(id_set, split, here.device) for split in ("train", "validation")]
    views = views_of(augmentation, meta, seed=seed, machine=here, precision=options.precision)
    label = f"leaveout {arch}-{fold}"
    task = Leaveout(label, model, *sets, kept=kept, settings=options, views=views, seed=seed, machine=here)
    curves = Engine(label, task, options, seed=seed, machine=here).train(checkpoint)
    preprocessing = {key: meta[key] for key in ("size", "channels", "mean", "std", "resize", "classes")}
    own = {"name": f"leaveout_{arch}_{fold}", "arch": arch, "objective": "leaveout", "seed": options.seed}
    rest = {"id": meta["name"], "head_classes": kept, "feature_dim": backbone.feature_dim, "projector": None}
    modules = {"backbone": backbone, "head": model.head}
    save_model(out, modules, {**preprocessing, **own, **rest, "settings": settings})
    save_curves(out_curves, curves)
    checkpoint.delete()
    accuracy, auroc = (curves[-1][f"validation_{key}"] for key in ("accuracy", "auroc"))
    done(
        out, f"{len(kept)} classes kept, ID validation accuracy {accuracy:.4f}, AUROC against the "
        f"{len(left)} left out {auroc:.4f}"
    )  # fmt: skip


if __name__ == "__main__":
    main()
