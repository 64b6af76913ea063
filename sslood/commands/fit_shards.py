"""Fit a detector to any number of vectors, those that `bulk --model` wrote, and calibrate its threshold.

    python -m sslood.commands.bulk --model M.safetensors --images s3://bucket/normal --out vectors
    python -m sslood.commands.fit_shards --model M.safetensors --vectors vectors --detector mahalanobis
        --alpha 0.05 --out mine.safetensors

Each parquet file is read on its own and its sums are merged, so memory does not grow with their number (of a
detector that keeps its images, such as knn, it does). One vector in five, at most 10,000, chosen by its path,
is not learned from and calibrates. With --label CLASS the detector knows the classes of that column; without,
all vectors are one class. The result is a detector file as of `deploy`, for `score` and `bulk`.
"""

import click
import numpy as np
from tqdm import tqdm

from sslood.cli.command import ANEW, Command, done
from sslood.cli.output import OutputFile, check_apart
from sslood.core.errors import known
from sslood.deploy.calibrated import DETECTORS
from sslood.deploy.measured import parse_given
from sslood.deploy.scorer import save_deployed
from sslood.ood.kit.outputs import Head
from sslood.ood.measures.conformal import images_needed


@click.command(cls=Command, again=ANEW)
@click.option("--model", required=True, help="Model file (or detector file) that the vectors come from.")
@click.option("--vectors", required=True, help="Folder, address or pattern of parquet files.")
@click.option("--label", help="Column with the class of each vector.")
@click.option("--detector", default="mahalanobis", show_default=True, help="Name of a detector.")
@click.option("--set", "assignments", multiple=True, help="DETECTOR.SETTING=VALUE instead of its default.")
@click.option("--alpha", default=0.05, show_default=True, help="Share of ID images that may be called OOD.")
@click.option("--anonymous", is_flag=True, help="Read a public store without credentials.")
@click.option("--out", required=True, type=OutputFile(), help="Detector file to write.")
def main(model, vectors, label, detector, assignments, alpha, anonymous, out) -> None:
    check_apart(model=model, out=out)
    images_needed(alpha)  # refuses an alpha that is no rate
    from sslood.deploy.engine.daft import engine, io_config

    engine()  # says what to install, before anything that needs it is imported
    from sslood.deploy.engine.shards import fit_shards, open_vectors
    from sslood.deploy.engine.worker import Embedding

    kind = DETECTORS[known(detector, "detector", DETECTORS)]
    settings = kind.Settings(**parse_given(assignments, [detector])[detector])
    arrays, metadata = Embedding(model).read
    head = None
    if "head.weight" in arrays:
        head = Head(*(np.asarray(arrays[f"head.{part}"]) for part in ("weight", "bias")))
    read = open_vectors(vectors, label, head, io_config(anonymous))
    with tqdm(total=2 * len(read.files), desc="fit_shards", unit="file", disable=None) as bar:
        found = fit_shards(read, detector, settings, alpha=alpha, seed=metadata["seed"], progress=bar.update)
    save_deployed(out, arrays, metadata, found)
    for line in found.describe():
        click.echo(line)
    for line in found.warnings():
        click.echo(f"Warning: {line}.", err=True)
    done(out, f"{detector} on {metadata['name']}, {found.promise(unit='vectors')}")


if __name__ == "__main__":
    main()
