"""Train one member of an ensemble: a fold of the classes plays the outliers (loss `margin`).

Controls: members that only lack the fold (`plain`), and those of a deep ensemble, which lack nothing
(`full`). Writes the member and the curves. A quickstart member takes seconds on two CPU cores.
"""

from pathlib import Path

import click

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, section_option, training_options
from sslood.cli.sections import item_options
from sslood.core.files import read_metadata
from sslood.core.machine import machine
from sslood.core.needs import may_be_left_out
from sslood.core.seeding import stream_seed
from sslood.data.images.augment import read_recipe
from sslood.nets.methods.leaveout import Leaveout, LeaveoutSettings, PlainMember, fold_classes, tuning_images
from sslood.nets.methods.supervised import load_split
from sslood.nets.networks.build import BACKBONES, build_backbone, read_architecture, seeded
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.families import FAMILIES
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.training.checkpoint import Checkpoint, fingerprint
from sslood.nets.training.engine import Engine
from sslood.nets.training.finish import finish


@click.command(cls=StageCommand)
@click.option("--backbone", required=True, help="Name of the backbone, e.g. densenet.")
@section_option("sizes", "the backbone's section", lambda at, given: read_architecture(given["backbone"], at))
@click.option("--loss", required=True, type=click.Choice(list(FAMILIES)), help="Which kind of member.")
@click.option("--fold", required=True, type=int, help="Which fold is left out, or which member of `full`.")
@item_options("tuning")
@click.option("--tuning_set", required=True, help="Set file that the published rule selects on.")
@training_options(LeaveoutSettings, read_recipe)
@may_be_left_out("model")
def main(id_set, backbone, sizes, loss, fold, tuning_set, recipe, out, out_curves, **section):
    options, augmentation = read_settings(LeaveoutSettings, section, where="leaveout"), read_recipe(recipe)
    here = machine(options.precision)
    meta = read_metadata(id_set, kind="set")
    kept, left = fold_classes(len(meta["classes"]), options.folds, fold, options.seed)
    if loss == "full":
        kept, left, options = sorted(kept + left), [], options.for_all_classes()
    seed = stream_seed(options.seed, "leaveout", fold)
    with seeded(seed, arch := read_architecture(backbone, sizes)):
        network = build_backbone(arch, channels=meta["channels"])
        head = build_head(network.feature_dim, len(kept))
    settings = options.recorded(loss=loss, fold=fold, left_out=left, recipe=vars(augmentation))
    code = "stages.leaveout", f"{BACKBONES}.{backbone}"
    inputs = [Path(path) for path in (id_set, tuning_set)[: 1 + (options.select == "published")]]
    identity = fingerprint({**settings, "arch": arch}, inputs, *code)
    checkpoint = Checkpoint(here.scratch, f"{FAMILIES[loss]}-{backbone}-{fold}", identity)
    sets = [load_split(id_set, split, here.device) for split in ("train", "validation")]
    task = (Leaveout if loss == "margin" else PlainMember)(
        Model(network, head), *sets, kept=kept, tuning=tuning_images(options, tuning_set, here.device),
        recipe=augmentation, preprocessing=meta, label=f"{FAMILIES[loss]} {backbone}-{fold}",
        settings=options, seed=seed, machine=here,
    )  # fmt: skip
    curves = Engine(task).train(checkpoint)
    task.restore_best()
    card = ModelCard.for_set(
        meta, name=f"{FAMILIES[loss]}_{backbone}_{fold}", arch=arch, objective="leaveout", seed=options.seed,
        head_classes=kept, feature_dim=network.feature_dim, settings=settings, epochs=task.epoch,
    )  # fmt: skip
    finish(out, out_curves, {"backbone": network, "head": head}, card, curves, checkpoint)
    epoch = task.epoch or len(curves)
    found = [curves[epoch - 1].get(f"validation_{key}", float("nan")) for key in ("accuracy", "auroc")]
    told = f"{len(kept)} classes kept, ID validation accuracy {found[0]:.4f}, AUROC against the"
    done(out, f"{told} {len(left)} left out {found[1]:.4f}, after epoch {epoch}")


if __name__ == "__main__":
    main()
