"""Fine-tune a classifier (or an encoder with a fresh head) so that auxiliary outliers get a high energy.

Writes the model and the curves; the metadata of the model hold the margins. A quickstart run takes seconds on
two CPU cores.
"""

from pathlib import Path

import click

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, training_options
from sslood.core.files import read_metadata
from sslood.core.machine import machine
from sslood.core.needs import check_set, may_be_left_out
from sslood.core.settings import checked, read_section
from sslood.data.images.augment import AugmentSettings
from sslood.nets.methods.energy import AUXILIARY, NEEDS, Energy, EnergySettings, start_model
from sslood.nets.methods.supervised import load_split
from sslood.nets.networks.card import check_fits
from sslood.nets.training.checkpoint import Checkpoint, fingerprint
from sslood.nets.training.engine import Engine
from sslood.nets.training.finish import finish


@click.command(cls=StageCommand)
@click.option("--seed", required=True, type=int, help="Seed of all streams of the run.")
@click.option("--auxiliary", required=True, help="Set file whose train split holds the auxiliary outliers.")
@click.option("--init_model", required=True, help="Model file to start from.")
@click.option("--name", required=True, help="Name of the model, without the seed.")
@click.option("--mode", required=True, type=click.Choice(["full", "head"]), help="What is trained.")
@training_options(EnergySettings)
@may_be_left_out("model")
def main(seed, id_set, auxiliary, init_model, name, mode, recipe, out, out_curves, **section):
    options = read_settings(EnergySettings, section, where="energy")
    augmentation = checked(AugmentSettings, read_section(recipe), recipe)
    here = machine(options.precision)
    check_set(NEEDS, id_set)
    check_set(AUXILIARY, auxiliary)
    model, card, fresh = start_model(init_model, id_set, seed)
    check_fits(card, read_metadata(auxiliary, kind="set"), init_model, id_set=False)
    settings = options.recorded(init=card.name, mode=mode, recipe=vars(augmentation))
    inputs = [Path(path) for path in (id_set, auxiliary, init_model)]
    identity = fingerprint({**settings, "seed": seed}, inputs, "stages.energy")
    checkpoint = Checkpoint(here.scratch, f"energy-{name}-{seed}", identity)
    pairs = (id_set, "train"), (id_set, "validation"), (auxiliary, "train")
    sets = [load_split(path, split, here.device) for path, split in pairs]
    task = Energy(
        model, *sets, mode=mode, fresh_head=fresh, recipe=augmentation, preprocessing=card.preprocessing,
        label=f"energy {name}-{seed}", settings=options, seed=seed, machine=here,
    )  # fmt: skip
    curves = Engine(task).train(checkpoint)
    head = model.need_head()
    card = card.replace(
        name=name, objective="energy", seed=seed, head_classes=list(range(head.out_features)),
        projector=None, stochastic=None, epochs=None, settings={**settings, **task.margins},
    )  # fmt: skip
    finish(out, out_curves, {"backbone": model.backbone, "head": head}, card, curves, checkpoint)
    accuracy, margins = curves[-1]["validation_accuracy"], [task.margins[key] for key in ("m_in", "m_out")]
    done(out, f"ID validation accuracy {accuracy:.4f}, margins {margins[0]:.3g} and {margins[1]:.3g}")


if __name__ == "__main__":
    main()
