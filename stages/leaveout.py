"""Train one member of an ensemble of leave-out classifiers: a fold of the classes plays the outliers.

Writes the member and the curves. A quickstart member takes seconds on two CPU cores.
"""

from pathlib import Path

import click

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, training_options
from sslood.core.files import read_metadata
from sslood.core.machine import machine
from sslood.core.needs import may_be_left_out
from sslood.core.seeding import stream_seed
from sslood.core.settings import checked, read_section
from sslood.data.images.augment import AugmentSettings
from sslood.nets.methods.leaveout import Leaveout, LeaveoutSettings, fold_classes
from sslood.nets.methods.supervised import load_split
from sslood.nets.networks.build import BACKBONES, build_backbone, read_architecture, seeded
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.training.checkpoint import Checkpoint, fingerprint
from sslood.nets.training.engine import Engine
from sslood.nets.training.finish import finish


@click.command(cls=StageCommand)
@click.option("--backbone", required=True, help="Name of the backbone, e.g. densenet.")
@click.option("--sizes", required=True, help="FILE:KEY of the backbone's section.")
@click.option("--fold", required=True, type=int, help="Which fold is left out.")
@training_options(LeaveoutSettings)
@may_be_left_out("model")
def main(id_set, backbone, sizes, fold, recipe, out, out_curves, **section):
    options = read_settings(LeaveoutSettings, section, where="leaveout")
    augmentation = checked(AugmentSettings, read_section(recipe), recipe)
    here = machine(options.precision)
    meta = read_metadata(id_set, kind="set")
    kept, left = fold_classes(len(meta["classes"]), options.folds, fold, options.seed)
    seed = stream_seed(options.seed, "leaveout", fold)
    arch = read_architecture(backbone, sizes)
    with seeded(seed, arch):
        network = build_backbone(arch, channels=meta["channels"])
        head = build_head(network.feature_dim, len(kept))
    settings = options.recorded(fold=fold, left_out=left, recipe=vars(augmentation))
    code = "stages.leaveout", f"{BACKBONES}.{backbone}"
    identity = fingerprint({**settings, "arch": arch}, [Path(id_set)], *code)
    checkpoint = Checkpoint(here.scratch, f"leaveout-{backbone}-{fold}", identity)
    sets = [load_split(id_set, split, here.device) for split in ("train", "validation")]
    model = Model(network, head)
    task = Leaveout(
        model, *sets, kept=kept, recipe=augmentation, preprocessing=meta,
        label=f"leaveout {backbone}-{fold}", settings=options, seed=seed, machine=here,
    )  # fmt: skip
    curves = Engine(task).train(checkpoint)
    card = ModelCard.for_set(
        meta, name=f"leaveout_{backbone}_{fold}", arch=arch, objective="leaveout", seed=options.seed,
        head_classes=kept, feature_dim=network.feature_dim, settings=settings,
    )  # fmt: skip
    finish(out, out_curves, {"backbone": network, "head": head}, card, curves, checkpoint)
    accuracy, auroc = (curves[-1].get(f"validation_{key}", float("nan")) for key in ("accuracy", "auroc"))
    done(
        out, f"{len(kept)} classes kept, ID validation accuracy {accuracy:.4f}, AUROC against the "
        f"{len(left)} left out {auroc:.4f}"
    )  # fmt: skip


if __name__ == "__main__":
    main()
