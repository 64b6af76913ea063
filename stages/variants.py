"""Pretrain an encoder with a named variant of an objective: its constants, but for those of the variant.

Writes what `pretrain` writes, under the variant's name. An encoder that was trained before with the same
settings, data and code is copied from the scratch folder, so a change of another objective's constants, which
DVC cannot tell apart, costs seconds.
"""

import click

from sslood.cli.command import StageCommand, done
from sslood.cli.options import section_option, training_options
from sslood.core.discovery import names_in
from sslood.core.errors import InputError
from sslood.core.needs import may_be_left_out
from sslood.core.settings import read_section
from sslood.nets import objectives as kinds
from sslood.nets.networks.build import read_architecture
from sslood.nets.selfsup.kept import kept_run
from sslood.nets.selfsup.objective import plan_of
from sslood.nets.selfsup.run import inputs_of
from sslood.nets.selfsup.settings import PretrainSettings, recipes_of, shared_of
from sslood.nets.selfsup.variants import OF, constants_of, is_variant
from sslood.nets.training.launcher import start_processes


def read_variant(variant, shared, where, recipe):
    """Return the plan of a variant; where, recipe: FILE:KEY of `objectives` and of `augment.pretrain`."""
    base, constants = constants_of(variant, read_section(where), names_in(kinds), where)
    return plan_of(base, shared, constants, f"{where}.{variant}", recipe)


def check_variant(where, given):
    shared = shared_of(given)
    if not is_variant(read_section(where).get(given["variant"], {OF: ""})):
        raise InputError(
            f"{where}.{given['variant']}: is no variant, since it lacks `{OF}`; list it under runs.objectives"
        )
    read_variant(given["variant"], shared, where, f"{where.partition(':')[0]}:augment.pretrain")


@click.command(cls=StageCommand)
@click.option("--variant", required=True, help="Name of the variant, and of the model without the seed.")
@click.option("--seed", required=True, type=int, help="Seed of all streams of the run.")
@click.option("--backbone", required=True, help="Name of the backbone, e.g. resnet.")
@section_option("sizes", "the backbone's section", lambda at, given: read_architecture(given["backbone"], at))
@section_option("objectives", "the objectives and their variants", check_variant, checks_settings=True)
@training_options(PretrainSettings, lambda where: recipes_of(read_section(where), where))
@may_be_left_out("model")
def main(variant, seed, id_set, backbone, sizes, objectives, recipe, out, out_curves, **shared):
    start_processes("stages.variants")
    plan = read_variant(variant, shared, objectives, recipe)
    arch = read_architecture(backbone, sizes)
    inputs = inputs_of(plan, arch, id_set)
    kept, text = kept_run(plan, variant, arch=arch, seed=seed, id_set=id_set, inputs=inputs)
    if text:  # of several processes, the first writes
        kept.give(variant, out, out_curves)
        done(out, text)


if __name__ == "__main__":
    main()
