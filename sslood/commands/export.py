"""Write a scorer that `deploy` made as one ONNX file: network, preprocessing, detector and threshold.

    python -m sslood.commands.export --detector data/detectors/NAME.safetensors --out NAME.onnx

Input: uint8 images (batch, channels, size, size). Outputs: score, p_value, is_ood and, of a classifier,
predicted_class. The file's metadata says the rest (see README). Needs requirements-onnx.txt. Not a stage;
takes seconds.
"""

import click

from sslood.cli.command import StageCommand
from sslood.deploy.onnx import export
from sslood.deploy.scorer import load_deployed


@click.command(cls=StageCommand)
@click.option("--detector", required=True, help="Detector file.")
@click.option("--out", required=True, help="ONNX file to write.")
def main(detector, out):
    deployed = load_deployed(detector)
    names = export(deployed, out, where=detector)
    click.echo(f"Wrote {out}: {deployed.calibrated.name} on {deployed.metadata['name']}; {', '.join(names)}.")


if __name__ == "__main__":
    main()
