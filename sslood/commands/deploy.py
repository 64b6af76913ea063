"""Fit a detector, calibrate its threshold on ID validation, and write all that scoring needs as one file.

    python -m sslood.commands.deploy --model data/models/classifier_simclr-0.safetensors
        --embeddings data/embeddings/0/classifier_simclr.safetensors --detector knn --alpha 0.05
        --out data/detectors/classifier_simclr-knn.safetensors

Any detector of the stages posthoc, ssd, stochastic and network. Several, each by its own --detector, make
one score by --combine. Not a stage: run it for the detector you chose. Seconds on two CPU cores; where
a detector asks the network itself, a pass over the images of --sets_dir more.
"""

from pathlib import Path
from typing import get_args

import click

from sslood.cli.command import StageCommand
from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.core.machine import machine
from sslood.deploy.fit import fit_deployed, settings_of
from sslood.deploy.scorer import save_deployed
from sslood.deploy.thresholds import Combination
from sslood.ood.kit.outputs import read_embeddings

FOLDER = click.Path(path_type=Path)


def check_names(names: tuple[str, ...], combine: str | None) -> None:
    """Raise InputError unless there is one detector, or several different ones and a way to combine them."""
    if len(set(names)) < len(names):
        raise InputError(f"--detector names one twice: {', '.join(names)}")
    if combine is None and len(names) > 1:
        raise InputError(f"--detector is given {len(names)} times; say how they make one score by --combine")
    if combine is not None and len(names) == 1:
        raise InputError("--combine needs two or more detectors; give --detector again, or leave it away")


@click.command(cls=StageCommand)
@click.option("--model", required=True, help="Model file.")
@click.option("--embeddings", type=FOLDER, help="Its embeddings file; those that ask the network need none.")
@click.option("--detector", required=True, multiple=True, help="Name of a detector, as in params.yaml.")
@click.option("--combine", type=click.Choice(get_args(Combination)), help="How several make one score.")
@click.option("--alpha", required=True, type=float, help="Share of ID images that may be called OOD.")
@click.option("--params", default="params.yaml", show_default=True, help="File with settings and sets.")
@click.option("--chosen", multiple=True, help="Results of a stage: use the settings chosen for the model.")
@click.option("--sets_dir", default="data/sets", show_default=True, type=FOLDER, help="Folder of set files.")
@click.option("--out", required=True, help="Detector file to write.")
def main(model, embeddings, detector, combine, alpha, params, chosen, sets_dir, out):
    check_names(detector, combine)
    arrays, metadata = load_tensors(model, kind="model")
    settings = {
        name: settings_of(name, params, chosen, metadata["name"], metadata["seed"]) for name in detector
    }
    outputs = embeddings and read_embeddings(embeddings.parent, embeddings.stem, metadata["seed"])
    calibrated = fit_deployed(
        arrays,
        metadata,
        settings,
        embeddings=outputs,
        sets=f"{params}:sets",
        folder=sets_dir,
        alpha=alpha,
        combination=combine,
        device=str(machine().device),
    )
    save_deployed(out, arrays, metadata, calibrated)
    found = calibrated.threshold
    click.echo(
        f"Wrote {out}: {calibrated.name} on {metadata['name']}, OOD is above {found.value:.6g}; {alpha:.3g} "
        f"of ID will be called OOD ({found.low:.3f} to {found.high:.3f}, from {found.images} calibration "
        "images)."
    )


if __name__ == "__main__":
    main()
