"""Score the test images with every detector that needs no retraining, from cached embeddings.

Fits on ID train or validation; writes the metrics of each OOD set and the score of each image. A setting is
a value, or `auto`: then it comes from the detector's grid, by AUROC of ID validation against the tuning sets.
So may be the members of a combination, a row made of the scores of others.
Seconds for the quickstart; a detector is skipped for a model that lacks what it reads (a head).
"""

from pathlib import Path

import click
from tqdm import tqdm

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_detectors, registry_options, section_option
from sslood.core.discovery import classes_in
from sslood.core.machine import machine
from sslood.core.threads import blas_threads
from sslood.ood import posthoc
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.evaluation import evaluate
from sslood.ood.kit.members import read_combinations
from sslood.ood.kit.results import results_of

DETECTORS = classes_in(posthoc, Detector)


@click.command(cls=StageCommand)
@click.option(
    "--embeddings", required=True, type=click.Path(path_type=Path), help="Folder of embeddings files."
)
@click.option("--models", required=True, multiple=True, help="Model to evaluate; may be repeated.")
@click.option("--seed", required=True, type=int, help="Seed of the models.")
@section_option(
    "combinations",
    "the rows made of others' scores",
    lambda where, given: read_combinations(where, given["detectors"], DETECTORS),
    required=False,
)
@click.option("--out_results", required=True, help="JSON of metrics to write.")
@click.option("--out_scores", required=True, help="File of scores to write.")
@registry_options(DETECTORS)
def main(embeddings, models, detectors, seed, combinations, out_results, out_scores, **values):
    kinds = read_detectors(DETECTORS, detectors, values)
    more = read_combinations(combinations, detectors, DETECTORS) if combinations else {}
    results, files = results_of("posthoc", embeddings, models, seed)
    bar = tqdm(total=len(files) * len(kinds), desc="posthoc", unit="detector", disable=None)
    with bar, blas_threads(sum(file.size for file in files[:1])):
        for file in files:
            for _ in evaluate(file, kinds, results, device=str(machine().device), combinations=more):
                bar.update()
    results.save(out_results, out_scores)
    found = sum(map(len, results.models.values())) + sum(bool(row["detector"]) for row in results.left_out)
    skipped = len(files) * len([*kinds, *more]) - found
    note = f" ({skipped} skipped: the model lacks what they read)" if skipped else ""
    done(out_results, f"{results.summary()}{note}")


if __name__ == "__main__":
    main()
