"""Write a scorer that `deploy` wrote as one ONNX file: network, preprocessing, detector and threshold.

    python -m sslood.commands.export --detector data/detectors/NAME.safetensors --out NAME.onnx

Input: uint8 images (batch, channels, size, size). Outputs: score, p_value, is_ood and, for a classifier,
predicted_class. The file's metadata describes them. Needs requirements-onnx.txt. Takes seconds.
"""

import click

from sslood.cli.command import Command, done
from sslood.cli.output import OutputFile, check_apart
from sslood.deploy.catches import in_a_phrase
from sslood.deploy.onnx import export
from sslood.deploy.scorer import load_deployed


@click.command(cls=Command)
@click.option("--detector", required=True, help="Detector file.")
@click.option("--out", required=True, type=OutputFile(), help="ONNX file to write.")
def main(detector: str, out: str) -> None:
    check_apart(detector=detector, out=out)
    deployed = load_deployed(detector)
    names = export(deployed, out, where=detector)
    calibrated = deployed.calibrated
    for line in calibrated.warnings():
        click.echo(f"Warning: {line}.", err=True)
    caught = in_a_phrase(calibrated.catches)
    done(out, f"{calibrated.name} on {deployed.metadata['name']}; {', '.join(names)}; {caught}")


if __name__ == "__main__":
    main()
