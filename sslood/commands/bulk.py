"""Decide about any number of pictures, on one machine or many: `score` on the engine Daft, into parquet.

    python -m sslood.commands.bulk --detector mine.safetensors --images s3://bucket/photos --out scores
    python -m sslood.commands.bulk --model model.safetensors --images 'shards/*.tar' --out vectors

--images is a folder or list as for `score`, a prefix of an object store, a parquet table of paths or
addresses (its other columns are kept), or a pattern of tar archives. The folder --out gets parquet files with
one row per picture: path, score, p_value, is_ood and predicted_class, those of `score`, the reason where a
picture could not be read, and a remark where it is odd. --model writes features (and logits) instead. A run
that was ended goes on where it was when the same command runs again: what is written is not judged twice.
"""

import hashlib
import os
import sys
from typing import Any

import click
from tqdm import tqdm

from sslood.cli.command import Command, done
from sslood.core.errors import InputError
from sslood.core.names import shown
from sslood.data.sets.tree import say_left

COUNT = click.IntRange(min=1)


class EngineCommand(Command):
    """A command that leaves the process at once when it has ended: threads of the engine may still run.

    An interrupted engine would abort while Python takes itself apart, and hide the exit status.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except SystemExit as end:
            spec = getattr(sys.modules["__main__"], "__spec__", None)
            if spec is None or spec.name != "sslood.commands.bulk":
                raise
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)


@click.command(cls=EngineCommand)
@click.option("--detector", help="Detector file; its decisions are written.")
@click.option("--model", help="Model file, or a detector file; features and logits are written.")
@click.option("--images", required=True, help="Folder, list, address, parquet table or tar archives.")
@click.option("--column", default="path", show_default=True, help="Column of a parquet table with the paths.")
@click.option("--out", required=True, help="Folder (or address in a store) of the results; it may grow.")
@click.option("--workers", default=1, show_default=True, type=COUNT, help="Copies of the detector that work.")
@click.option(
    "--gpus",
    default=0.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="GPUs (or the part of one) of each worker.",
)
@click.option("--threads", type=COUNT, help="Threads of each worker [default: the cores shared out].")
@click.option("--batch_size", default=256, show_default=True, type=COUNT, help="Pictures per batch.")
@click.option("--anonymous", is_flag=True, help="Read a public store without credentials.")
@click.option("--retry", is_flag=True, help="Try again the pictures that could not be read.")
@click.option("--fdr", type=float, help="Also say up to which p-value this share of the OOD ones is ID.")
@click.option("--ray", help="Address of a Ray cluster, e.g. ray://head:10001, or auto.")
def main(
    detector, model, images, column, out, workers, gpus, threads, batch_size, anonymous, retry, fdr, ray
) -> None:
    if (detector is None) == (model is None):
        raise InputError("give --detector, whose decisions are written, or --model, whose vectors are")
    if fdr is not None and model is not None:
        raise InputError("--fdr judges decisions; give --detector, not --model")
    from sslood.deploy.engine.daft import engine, io_config

    daft = engine()  # says what to install, before anything that needs it is imported
    from sslood.deploy.engine.parts import Parts
    from sslood.deploy.engine.run import Workers, columns_of, judge_pictures, totals
    from sslood.deploy.engine.sources import open_source
    from sslood.deploy.engine.worker import Deciding, Embedding
    from sslood.deploy.scorer import load_deployed
    from sslood.deploy.thresholds import check_rate

    opener: Any = Embedding(model) if detector is None else Deciding(detector)
    calibrated = load_deployed(detector).calibrated if detector else None
    if calibrated is not None and fdr is not None:
        check_rate(fdr, calibrated.fewest)
    opener.columns.keys()  # refuses a file without a network
    with open(detector or model, "rb") as file:
        made_by = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    if ray:
        daft.set_runner_ray(None if ray == "auto" else ray)
    io = io_config(anonymous)
    source = open_source(images, column, io)
    if source.left:
        click.echo(shown(f"{images}: {say_left(source.left)}; not taken"), err=True)
    # a relative path means other pictures elsewhere
    place = images if "://" in images else os.path.abspath(os.path.expanduser(images))
    parts = Parts(out, place, made_by, columns_of(source, opener), io)
    if retry:
        _forget_unread(parts, source)
    team = Workers(workers, gpus, threads or 0, batch_size, processes=True if ray else None)
    unit = {"path": "image", "shard": "shard"}[source.unit]
    with tqdm(total=source.count, desc="bulk", unit=unit, disable=None) as bar:
        new = judge_pictures(source, opener, parts, team, io=io, progress=bar.update)
    found = totals(parts)
    text = f"{found.pictures} picture{'s' * (found.pictures != 1)}, {new} of them new"
    if found.unread:
        text += f", {found.unread} could not be read (column reason; --retry tries them again)"
    if calibrated is not None:
        threshold = calibrated.threshold
        text += f"; {_are(found.ood)} OOD at a false-alarm rate of {threshold.alpha:.3g}"
        if fdr is not None:
            cut = found.cut(fdr, calibrated.fewest)
            picked = sum(count for p, count in found.below.items() if p <= cut)
            text += f"; judged together, {_are(picked)} (p_value <= {cut!r}), at most {fdr:.3g} of them ID"
        for line in calibrated.warnings():
            click.echo(f"Warning: {line}.", err=True)
    done(out, text)


def _forget_unread(parts: Any, source: Any) -> None:
    """Take out the rows of what could not be read, and say so."""
    archives = source.frame.to_pydict()["shard"] if source.unit == "shard" else []
    if count := parts.forget_unread(archives):
        whole = ", and all others of the same archives" if archives else ""
        text = f"{count} picture{'s' * (count != 1)} that could not be read{whole}"
        click.echo(f"Tried again: {text}.", err=True)


def _are(count: int) -> str:
    return f"{count} {'is' if count == 1 else 'are'}"


if __name__ == "__main__":
    main()
