"""Write a detector file of `fit` or `deploy` as one ONNX file: network, preprocessing, detector, threshold.

    python -m sslood.commands.export --detector data/detectors/NAME.safetensors --out NAME.onnx

Input: uint8 images (batch, channels, size, size); optional inputs: alpha, the share of ID images that may be
called OOD, and fdr, to judge a batch together. Outputs: score, p_value, is_ood and, for a classifier,
predicted_class. The file's metadata describes them. --triton also writes the configuration with which
NVIDIA's Triton serves it, e.g. --out REPOSITORY/NAME/1/model.onnx --triton REPOSITORY/NAME/config.pbtxt.
Needs requirements-onnx.txt. Takes seconds.
"""

import click

from sslood.cli.command import ANEW, Command, done
from sslood.cli.output import OutputFile, check_apart
from sslood.deploy.catches import in_a_phrase
from sslood.deploy.onnx import export
from sslood.deploy.scorer import load_deployed
from sslood.deploy.triton import save_config


@click.command(cls=Command, again=ANEW)
@click.option("--detector", required=True, help="Detector file.")
@click.option("--out", required=True, type=OutputFile(), help="ONNX file to write.")
@click.option("--triton", type=OutputFile(), help="config.pbtxt to write for Triton.")
@click.option(
    "--triton_batch",
    default=64,
    show_default=True,
    type=click.IntRange(min=0),
    help="Images that Triton computes together, at most; 0: none, but requests may have alpha and fdr.",
)
def main(detector: str, out: str, triton: str | None, triton_batch: int) -> None:
    check_apart(detector=detector, out=out, triton=triton)
    deployed = load_deployed(detector)
    names = export(deployed, out, where=detector)
    if triton:
        save_config(triton, out, triton_batch)
    calibrated = deployed.calibrated
    for line in calibrated.warnings():
        click.echo(f"Warning: {line}.", err=True)
    caught = in_a_phrase(calibrated.catches)
    done(out, f"{calibrated.name} on {deployed.metadata['name']}; {', '.join(names)}; {caught}")


if __name__ == "__main__":
    main()
