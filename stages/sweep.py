"""Run a sweep: every combination of some settings of pretraining, each scored by the same detectors.

Writes a folder with tidy tables of all cells, a table for people and one figure per factor. What a cell found
is kept in the scratch folder, so a sweep that is stopped goes on, and a changed level runs its own cells
only. A cell that fails is named and left out, and the others run.
"""

from pathlib import Path

import click

from sslood.cli.command import StageCommand, done
from sslood.cli.options import section_option, setting_options
from sslood.core.errors import InputError
from sslood.core.settings import read_section, read_value
from sslood.nets.selfsup.settings import PretrainSettings, shared_of
from sslood.report import sweeps
from sslood.sweeps.cells import Places, read_cells, read_evaluation
from sslood.sweeps.evaluated import Images
from sslood.sweeps.grids import OBJECTIVE, read_sweep
from sslood.sweeps.run import run_sweep

SECTIONS = {
    "objectives": "objectives", "recipe": "augment.pretrain", "sizes": "backbones.{backbone}",
    "embed": "embed", "probe": "probe", "posthoc": "posthoc", "stochastic": "stochastic",
}  # fmt: skip


def read(where, given, places):
    """Return (sweep, its cells, their evaluation) of the section `where`, FILE:KEY."""
    shared = shared_of(given)
    found = read_sweep(read_value(where), given["seeds"], where)
    cells = read_cells(found, shared, given["backbone"], places, where)
    return found, cells, read_evaluation(found.detectors, places, where)


def check(where, given):
    file = where.partition(":")[0]
    read(where, given, Places(**{key: f"{file}:{at.format(**given)}" for key, at in SECTIONS.items()}))


def sections(function):
    for name in reversed(SECTIONS):
        function = click.option(f"--{name}", required=True, help=f"FILE:KEY of {SECTIONS[name]}.")(function)
    return function


@click.command(cls=StageCommand)
@click.option("--sweep", required=True, help="Name of the sweep.")
@section_option("grids", "the sweep: its detectors and grids", check, checks_settings=True)
@click.option("--id", "id_name", required=True, help="Name of the ID set.")
@click.option("--sets", required=True, help="FILE:KEY of the sets and their roles.")
@click.option("--folder", required=True, help="Folder of the set files.")
@click.option("--seeds", required=True, multiple=True, type=int, help="Seeds of grids that name none.")
@click.option("--backbone", required=True, help="Name of the backbone, e.g. resnet.")
@sections
@setting_options(PretrainSettings)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of tables to write.")
def main(sweep, grids, id_name, sets, folder, out, **given):
    found, cells, evaluation = read(grids, given, Places(**{name: given[name] for name in SECTIONS}))
    results = run_sweep(cells, evaluation, Images(read_section(sets), folder, id_name), sweep)
    scores, encoders = results.tables()
    left_out = results.left_out | results.broken
    sweeps.write_sweep(
        out, sweeps.Sweep(sweep, id_name, OBJECTIVE, found.factors, scores, encoders, left_out)
    )
    if results.broken:
        raise InputError(
            f"{sweep}: cells failed: {'; '.join(results.broken)}; the others are kept, run again"
        )
    done(out, f"{len(encoders)} of {len(cells)} cells, {len(scores)} rows")


if __name__ == "__main__":
    main()
