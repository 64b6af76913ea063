"""Answer over HTTP whether pictures are OOD, with a file that `deploy` or `fit` wrote.

    python -m sslood.commands.serve --detector data/detectors/NAME.safetensors --port 8000
    curl -F images=@a.jpg -F images=@b.jpg localhost:8000/score

POST /score takes pictures as files of a form, as JSON with base64, or one picture as the body, and answers
with the columns of `score` as JSON; ?alpha=0.01 and ?fdr=0.1 change the rule of one request. GET /detector
says what decides, GET /health whether it works. Pictures of all clients share the batches of the network.
Stops on Ctrl-C or SIGTERM once what it has begun is answered. Needs requirements-serve.txt.
"""

from dataclasses import replace

import click

from sslood.cli.command import Command
from sslood.core.errors import InputError
from sslood.core.files import read_metadata
from sslood.core.machine import machine
from sslood.core.names import shown
from sslood.deploy.catches import in_a_phrase
from sslood.deploy.scorer import load_deployed
from sslood.deploy.serving.limits import Limits

COUNT = click.IntRange(min=1)
USUAL = Limits()


@click.command(cls=Command)
@click.option("--detector", required=True, help="Detector file.")
@click.option("--alpha", type=float, help="Share of ID pictures that may be called OOD, if not the file's.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all networks."
)
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 for a free one."
)
@click.option("--batch_size", default=64, show_default=True, type=COUNT, help="Pictures per batch, at most.")
@click.option(
    "--max_images",
    default=USUAL.images,
    show_default=True,
    type=COUNT,
    help="Pictures of a request, at most.",
)
@click.option(
    "--max_mb", default=USUAL.megabytes, show_default=True, type=COUNT, help="MiB of a request, at most."
)
@click.option(
    "--max_requests",
    default=USUAL.requests,
    show_default=True,
    type=COUNT,
    help="Requests processed at a time; others get status 503.",
)
@click.option(
    "--max_seconds", default=USUAL.seconds, show_default=True, type=float, help="Time to send a request in."
)
def main(detector, alpha, host, port, batch_size, max_images, max_mb, max_requests, max_seconds) -> None:
    try:
        import python_multipart  # noqa: F401 - what starlette reads forms with

        from sslood.deploy.serving.app import application
        from sslood.deploy.serving.running import address, listen, run
    except ImportError as error:
        raise InputError(
            f"serving needs the package {error.name!r}: pip install -r requirements-serve.txt"
        ) from None
    limits = Limits(max_images, max_mb, max_requests, max_seconds)
    scorer = load_deployed(detector, machine().device)
    if alpha is not None:
        scorer = replace(scorer, calibrated=scorer.calibrated.at(alpha))
    checksum = str(read_metadata(detector, kind="detector")["checksum"])
    app = application(scorer, checksum=checksum, limits=limits, batch_size=batch_size)
    for line in scorer.calibrated.warnings():
        click.echo(f"Warning: {line}.", err=True)
    with listen(host, port) as listener:
        caught = in_a_phrase(scorer.calibrated.catches)
        click.echo(shown(f"Serving {scorer.calibrated.name} on {address(listener)}/score; {caught}."))
        run(app, listener, limits)
    click.echo("Stopped.")


if __name__ == "__main__":
    main()
