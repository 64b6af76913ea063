"""Train a classifier, or an encoder with a fresh head, against auxiliary outliers.

The losses are energy margins, outlier exposure and a background class. Writes the model (its metadata hold
margins, candidates and what was chosen), the curves, and the energies before and after with what was chosen.
A quickstart run takes seconds on two CPU cores.
"""

import click

from sslood.cli.command import StageCommand, done
from sslood.cli.options import section_option, training_options
from sslood.cli.sections import item_options
from sslood.core.files import save_json
from sslood.core.needs import may_be_left_out
from sslood.core.settings import read_section
from sslood.data.images.augment import read_recipe
from sslood.nets.methods.outlier_energies import before_and_after
from sslood.nets.methods.outlier_runs import Inputs, best_of, choice, to_show, try_all
from sslood.nets.methods.outliers import EnergySettings, read_candidates
from sslood.nets.training.finish import finish


def check_constants(where, given):
    shared = {name: given[name] for name in EnergySettings.__dataclass_fields__ if name in given}
    read_candidates(shared, read_section(where), where)


@click.command(cls=StageCommand)
@click.option("--seed", required=True, type=int, help="Seed of all streams of the run.")
@click.option("--auxiliary_set", "auxiliary", required=True, help="Set file of the outliers.")
@click.option("--tuning_set", "tuning", required=True, help="Set file whose validation split is chosen on.")
@click.option("--left_out", required=True, help="The audit's JSON of what is no outlier.")
@click.option("--init", help="Name of the start, which its file must hold, with the seed.")
@click.option("--init_model", required=True, help="Model file to start from.")
@click.option("--name", required=True, help="Name of the model, without the seed.")
@click.option("--mode", required=True, type=click.Choice(["full", "head"]), help="What is trained.")
@section_option("constants", "what this loss changes", check_constants, checks_settings=True)
@item_options("loss", "auxiliary", "tuning")
@training_options(EnergySettings, read_recipe, optional=["views"])
@click.option("--out_energies", required=True, help="JSON of energies and what was chosen, to write.")
@may_be_left_out("model")
def main(seed, name, mode, constants, recipe, out, out_curves, out_energies, **given):
    inputs = Inputs(**{key: given.pop(key) for key in Inputs.__dataclass_fields__})
    candidates, varied = read_candidates(given, read_section(constants), constants)
    augmentation = read_recipe(recipe)
    tried = try_all(
        inputs, candidates, name=name, mode=mode, recipe=augmentation, seed=seed, code="stages.energy"
    )
    best = best_of(tried)
    head = best.task.model.need_head()
    settings = {**best.card.settings, **choice(tried, varied)}
    card = best.card.replace(
        name=name, objective="energy", seed=seed, head_classes=list(range(head.out_features)),
        projector=None, stochastic=None, epochs=None, settings=settings,
    )  # fmt: skip
    modules = {"backbone": best.task.model.backbone, "head": head}
    save_json(out_energies, {**before_and_after(best.before, best.after), **to_show(tried, varied)})
    finish(out, out_curves, modules, card, best.curves, best.checkpoint)
    for one in tried:
        one.checkpoint.delete()
    kept = best.measured(best.epoch)
    margins = [f"{key} {settings[key]:.3g}" for key in ("m_in", "m_out") if key in best.task.margins]
    chosen = [f"{key} {settings[key]}" for key in varied] + margins
    done(
        out, ", ".join([f"ID validation accuracy {kept['validation_accuracy']:.4f} in epoch {kept['epoch']}",
                        *chosen])
    )  # fmt: skip


if __name__ == "__main__":
    main()
