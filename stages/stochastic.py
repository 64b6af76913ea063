"""Score the test images of stochastic models by the Gaussians that their embeddings are drawn from.

Reads the cached embeddings of all models and skips those without a Gaussian. Score signs are fixed in
advance, larger = more OOD, and never flipped; their AUROC on ID validation against each tuning set is
recorded as a check. Seconds for the digits.
"""

from pathlib import Path

import click
from tqdm import tqdm

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_detectors, registry_options
from sslood.core.discovery import classes_in
from sslood.core.machine import machine
from sslood.core.threads import blas_threads
from sslood.ood import stochastic
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.evaluation import evaluate, sign_check
from sslood.ood.kit.results import results_of

STOCHASTIC = classes_in(stochastic, Detector)


@click.command(cls=StageCommand)
@click.option(
    "--embeddings", required=True, type=click.Path(path_type=Path), help="Folder of embeddings files."
)
@click.option("--models", required=True, multiple=True, help="Model to evaluate; may be repeated.")
@click.option("--detectors", required=True, multiple=True, help="Detector to run; may be repeated.")
@click.option("--seed", required=True, type=int, help="Seed of the draws, and of the models.")
@click.option("--out_results", required=True, help="JSON of metrics to write.")
@click.option("--out_scores", required=True, help="File of scores to write.")
@registry_options(STOCHASTIC)
def main(embeddings, models, detectors, seed, out_results, out_scores, **values):
    kinds = read_detectors(STOCHASTIC, detectors, values)
    results, files = results_of("stochastic", embeddings, models, seed)
    bar = tqdm(total=len(files) * len(kinds), desc="stochastic", unit="detector", disable=None)
    with bar, blas_threads(sum(file.size for file in files[:1])):
        for file in files:
            for name, detector in evaluate(file, kinds, results, device=str(machine().device)):
                if detector is not None:
                    results.chosen[f"{file.model}.{name}.direction"] = sign_check(detector, file)
                bar.update()
    results.save(out_results, out_scores)
    done(out_results, results.summary())


if __name__ == "__main__":
    main()
