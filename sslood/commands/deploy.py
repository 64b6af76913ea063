"""Fit a detector, calibrate its threshold on ID validation, and write all that scoring needs as one file.

    python -m sslood.commands.deploy --model data/models/classifier_simclr-0.safetensors
        --embeddings data/embeddings/0/classifier_simclr.safetensors --detector knn --alpha 0.05
        --out data/detectors/classifier_simclr-knn.safetensors

Any detector of the stages posthoc, ssd, stochastic and network, with the settings that its stage measured it
with (from --results, by the model's name and seed), so that its AUROC is that of the tables. --set changes
one of them; --choose takes them from --params instead, and chooses now what is `auto` there. Without
--detector it is the row `auto`: the detector, or the sum of two or three, that the stage posthoc chose for
the model on validation images. Several detectors, each by its own --detector, give one score by --combine.
What the result catches of the near and far sets is measured, said and kept in the file. --maps keeps what
`score` needs for heat maps, from up to 600 images of --sets_dir. Takes seconds on two CPU cores; a detector
that queries the network also takes a pass over the images of --sets_dir.
"""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import click

from sslood.cli.command import ANEW, Command, done
from sslood.cli.output import OutputFile, check_apart
from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.core.machine import machine
from sslood.deploy.calibrated import KINDS
from sslood.deploy.catches import in_a_phrase
from sslood.deploy.fit import fit_deployed
from sslood.deploy.maps.keeping import nearest_of_set, patches_of_set
from sslood.deploy.measured import (
    Members,
    configured,
    configured_members,
    measured,
    measured_members,
    parse_given,
)
from sslood.deploy.scorer import save_deployed
from sslood.nets.inference.looks import Looks
from sslood.ood.kit.combining import Combination
from sslood.ood.kit.outputs import read_embeddings
from sslood.ood.measures.conformal import images_needed

FOLDER = click.Path(path_type=Path)
FORMERLY = {"chosen": "what the stage measured is the default now; --results names another folder of results"}


def members_of(names: tuple[str, ...], combine: Combination | None, measure: Callable) -> Members:
    """Return the detectors that are named, those of a combination (a row of the tables) as `measure` says.

    Raises InputError unless there is one name, or several different detectors and a way to combine them.
    """
    if len(set(names)) < len(names):
        raise InputError(f"--detector names one twice: {', '.join(names)}")
    if combine is None and len(names) > 1:
        raise InputError(f"--detector is given {len(names)} times; say how they make one score by --combine")
    rows = [name for name in names if name not in KINDS]
    if rows and len(names) > 1:
        raise InputError(f"--detector {rows[0]}: no detector; a combination cannot be combined with others")
    if combine is not None and len(names) == 1:
        raise InputError("--combine needs two or more detectors; give --detector again, or omit it")
    return measure(rows[0]) if rows else Members(names, combine)


@click.command(cls=Command, formerly=FORMERLY, again=ANEW)
@click.option("--model", required=True, help="Model file.")
@click.option(
    "--embeddings",
    type=FOLDER,
    help="Embeddings of the model; not needed by odin, gram and the rotation scores.",
)
@click.option(
    "--detector",
    default=["auto"],
    show_default=True,
    multiple=True,
    help="Name of a detector, or of a combination that the stage posthoc measured; may be repeated.",
)
@click.option("--combine", type=click.Choice(get_args(Combination)), help="How several give one score.")
@click.option(
    "--per_class", is_flag=True, help="A threshold for each predicted class, which holds the rate within it."
)
@click.option("--alpha", required=True, type=float, help="Share of ID images that may be called OOD.")
@click.option(
    "--results", default="data/results", show_default=True, type=FOLDER, help="Results of the stages."
)
@click.option(
    "--set", "assignments", multiple=True, help="DETECTOR.SETTING=VALUE instead of what was measured."
)
@click.option("--choose", is_flag=True, help="Settings from --params instead of from results.")
@click.option("--params", default="params.yaml", show_default=True, help="File with settings and sets.")
@click.option("--sets_dir", default="data/sets", show_default=True, type=FOLDER, help="Folder of set files.")
@click.option(
    "--audit",
    default="data/audit.safetensors",
    show_default=True,
    type=FOLDER,
    help="Artefact control.",
)
@click.option("--maps", is_flag=True, help="Keep patches for heat maps, and the nearest ID images.")
@click.option("--out", required=True, type=OutputFile(), help="Detector file to write.")
def main(
    model, embeddings, detector, combine, per_class, alpha, results, assignments, choose, params, sets_dir,
    audit, maps, out,
) -> None:  # fmt: skip
    check_apart(model=model, embeddings=embeddings, out=out)
    images_needed(alpha)  # refuses an alpha that is no rate
    arrays, metadata = load_tensors(model, kind="model")
    name, seed = metadata["name"], metadata["seed"]

    def measure(row: str) -> Members:
        return configured_members(row, params) if choose else measured_members(row, name, seed, results)

    members = members_of(detector, combine, measure)
    given = parse_given(assignments, members.names)
    choices = {
        one: configured(one, params, given[one]) if choose else measured(one, name, seed, results, given[one])
        for one in members.names
    }
    device = str(machine().device)
    outputs = read_embeddings(embeddings.parent, embeddings.stem, seed) if embeddings else None
    calibrated = fit_deployed(
        arrays,
        metadata,
        choices,
        embeddings=outputs,
        sets=f"{params}:sets",
        folder=sets_dir,
        audit=audit,
        alpha=alpha,
        combination=members.by,
        per_class=per_class,
        device=device,
    )
    patches = patches_of_set(arrays, metadata, sets_dir, device) if maps else None
    nearest = nearest_of_set(outputs) if maps and outputs else None
    if outputs:  # what is scored is seen as it was embedded
        metadata = {**metadata, **Looks.of(outputs.metadata).metadata()}
    save_deployed(out, arrays, metadata, calibrated, patches=patches, nearest=nearest)
    if members.source:
        click.echo(f"{detector[0]}: {calibrated.name} ({members.source}).")
    for line in calibrated.describe():
        click.echo(line)
    if calibrated.catches:
        click.echo(f"Called OOD: {', '.join(map(str, calibrated.catches))}.")
    if not audit.is_file():
        click.echo(f"Note: {audit} is not there, so there is no artefact control to compare with.", err=True)
    for line in calibrated.warnings():
        click.echo(f"Warning: {line}.", err=True)
    caught = in_a_phrase(calibrated.catches)
    done(out, f"{calibrated.name} on {name}, {calibrated.promise()}; {caught}")


if __name__ == "__main__":
    main()
