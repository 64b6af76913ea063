"""Score the test images of stochastic models by the Gaussians that their embeddings are drawn from.

Reads the cached embeddings of all models and passes over those without a Gaussian. The sign of every score
is declared, larger = more OOD, and never turned; what it makes of ID validation against the tuning set
stands beside it in the results. Seconds for the digits.
"""

from pathlib import Path

import click
from tqdm import tqdm

from sslood.cli.command import StageCommand
from sslood.cli.options import read_detectors, registry_options
from sslood.core.discovery import classes_in
from sslood.core.machine import machine
from sslood.core.threads import blas_threads
from sslood.ood import stochastic
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.outputs import Embeddings, read_embeddings
from sslood.ood.kit.results import Results, outputs_to_test, score_sets
from sslood.ood.measures.metrics import ood_metrics


def direction(detector: Detector, file: Embeddings) -> dict:
    """Return the declared sign, with its AUROC for ID validation against each tuning set."""
    inside = detector.score(file.outputs(file.id, "validation"))
    tuning = [name for name, role in file.roles.items() if role == "tuning"]
    aurocs = {
        name: ood_metrics(inside, detector.score(file.outputs(name, "validation")))["auroc"]
        for name in tuning
    }
    return {"value": "larger = more OOD", "source": "declared", "validation_auroc": aurocs}


STOCHASTIC = classes_in(stochastic, Detector)


@click.command(cls=StageCommand)
@click.option(
    "--embeddings", required=True, type=click.Path(path_type=Path), help="Folder of embeddings files."
)
@click.option("--models", required=True, multiple=True, help="Model to evaluate; may be repeated.")
@click.option("--detectors", required=True, multiple=True, help="Detector to run; may be repeated.")
@click.option("--seed", required=True, type=int)
@click.option("--out_results", required=True, help="JSON of metrics to write.")
@click.option("--out_scores", required=True, help="File of scores to write.")
@registry_options(STOCHASTIC)
def main(embeddings, models, detectors, seed, out_results, out_scores, **values):
    kinds = read_detectors(STOCHASTIC, detectors, values)
    files = [read_embeddings(embeddings, model, seed) for model in models]
    results = Results("stochastic", seed, files[0].id)
    for name, (_, settings) in kinds.items():
        results.record_settings(settings, name)
    device = str(machine().device)
    bar = tqdm(total=len(files) * len(kinds), desc="stochastic", unit="detector", disable=None)
    with bar, blas_threads(files[0].size):
        for file in files:
            train = file.outputs(file.id, "train")
            tests = outputs_to_test(file)
            results.roles |= file.roles
            for name, (kind, settings) in kinds.items():
                detector = kind(settings, seed=seed, device=device)
                if detector.suits(train):
                    results.add(file.model, name, score_sets(detector.fit(train), tests))
                    results.chosen[f"{file.model}.{name}.direction"] = direction(detector, file)
                bar.update()
    results.save(out_results, out_scores)
    click.echo(f"Wrote {out_results}: {results.summary()}.")


if __name__ == "__main__":
    main()
