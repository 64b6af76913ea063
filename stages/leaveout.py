"""Train one member of an ensemble: a fold of the classes plays the outliers (loss `margin`).

Controls: members that only lack the fold (`plain`), and those of a deep ensemble, which lack nothing
(`full`). With SSLOOD_TOGETHER the first member's stage trains all of them in one process. Writes the member
and the curves. A quickstart member takes seconds on two CPU cores.
"""

import click

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, section_option, training_options
from sslood.cli.sections import item_options
from sslood.core.needs import may_be_left_out
from sslood.data.images.augment import read_recipe
from sslood.nets.methods.leaveout import LeaveoutSettings
from sslood.nets.methods.leaveout_runs import Ensemble
from sslood.nets.networks.build import read_architecture
from sslood.nets.networks.families import FAMILIES
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
    options = read_settings(LeaveoutSettings, section, where="leaveout")
    ensemble = Ensemble(
        id_set, tuning_set, backbone, read_architecture(backbone, sizes), loss, options, read_recipe(recipe),
        code="stages.leaveout",
    )  # fmt: skip
    run = ensemble.run(fold)
    ensemble.train_together(fold, run)
    curves = Engine(run.task).train(run.checkpoint)
    run.task.restore_best()
    modules = {"backbone": run.task.model.backbone, "head": run.task.model.need_head()}
    finish(out, out_curves, modules, ensemble.card(fold, run), curves, run.checkpoint)
    epoch = run.task.epoch or len(curves)
    found = [curves[epoch - 1].get(f"validation_{key}", float("nan")) for key in ("accuracy", "auroc")]
    told = f"{len(run.kept)} classes kept, ID validation accuracy {found[0]:.4f}, AUROC against the"
    done(out, f"{told} {len(run.left)} left out {found[1]:.4f}, after epoch {epoch}")


if __name__ == "__main__":
    main()
