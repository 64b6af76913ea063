"""Fit a detector, calibrate its threshold on ID validation, and write all that scoring needs as one file.

    python -m stages.deploy --model data/models/classifier_simclr-0.safetensors
        --embeddings data/embeddings/0/classifier_simclr.safetensors --detector knn --alpha 0.05
        --out data/detectors/classifier_simclr-knn.safetensors

Not a stage: run it for the detector you chose. Seconds on two CPU cores.
"""

from dataclasses import fields
from pathlib import Path

import click

from stages.core.artefacts import load_json, load_tensors
from stages.core.cli import StageCommand, read_section, strict
from stages.core.errors import InputError, known
from stages.deployment import fit_deployed, save_deployed
from stages.machine import machine
from stages.ood.files import KINDS
from stages.ood.outputs import read_embeddings


def settings_of(detector: str, params: str, chosen: str | None = None, model: str = ""):
    """Return the detector's settings from its section of the params file, or what a search chose for `model`.

    chosen: results of posthoc or ssd. InputError if a file lacks the section or the choice.
    """
    kind = KINDS[known(detector, "detector", KINDS)]
    where = f"{params}:ssd" if detector == "ssd" else f"{params}:posthoc.{detector}"
    names = [field.name for field in fields(kind.Settings)]
    if chosen is None:
        section = read_section(where) if names else {}
        section.pop("select", None)  # how the stage ssd finds its settings, and none of them
        return strict(kind.Settings, section, where)
    found = load_json(chosen).get("chosen", {})
    prefixes = [f"{model}.", ""] if detector == "ssd" else [f"{model}.{detector}.", f"{detector}."]
    values = {
        name: found[p + name]["value"] for name in names for p in reversed(prefixes) if p + name in found
    }
    if missing := [name for name in names if name not in values]:
        raise InputError(
            f"{chosen}: holds no {missing[0]} of {detector} for model {model!r}; run it with search"
        )
    return strict(kind.Settings, values, chosen)


@click.command(cls=StageCommand)
@click.option("--model", required=True, help="Model file.")
@click.option("--embeddings", required=True, type=click.Path(path_type=Path), help="Its embeddings file.")
@click.option("--detector", required=True, help="Name of the detector, as in params.yaml.")
@click.option("--alpha", required=True, type=float, help="Share of ID images that may be called OOD.")
@click.option("--params", default="params.yaml", show_default=True, help="File with the detector's settings.")
@click.option("--chosen", help="Results of posthoc or ssd: use the settings that they chose for the model.")
@click.option("--out", required=True, help="Detector file to write.")
def main(model, embeddings, detector, alpha, params, chosen, out):
    arrays, metadata = load_tensors(model, kind="model")
    settings = settings_of(detector, params, chosen, metadata["name"])
    outputs = read_embeddings(embeddings.parent, embeddings.stem, metadata["seed"])
    device = str(machine().device)
    calibrated = fit_deployed(
        arrays, metadata, outputs, detector=detector, settings=settings, alpha=alpha, device=device
    )
    save_deployed(out, arrays, metadata, calibrated)
    found = calibrated.threshold
    click.echo(
        f"Wrote {out}: {detector} on {metadata['name']}, OOD is above {found.value:.6g}; {alpha:.3g} of ID "
        f"will be called OOD ({found.low:.3f} to {found.high:.3f}, from {found.images} calibration images)."
    )


if __name__ == "__main__":
    main()
