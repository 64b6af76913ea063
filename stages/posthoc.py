"""Score the test images with every detector that needs no retraining, on cached embeddings.

Fits on ID train or validation, writes the metrics of each OOD set and the score of each image. With
--search the settings come from a grid that each detector declares, judged on ID validation and the tuning
sets. Seconds for the quickstart; a detector that reads logits is passed over for a model without a head.
"""

from pathlib import Path

import click
from tqdm import tqdm

from sslood.cli.command import StageCommand
from sslood.cli.options import read_detectors, registry_options
from sslood.core.discovery import classes_in
from sslood.core.machine import machine
from sslood.core.threads import blas_threads
from sslood.ood import posthoc
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.outputs import read_embeddings
from sslood.ood.kit.results import Results, outputs_to_test, score_sets
from sslood.ood.kit.search import best_settings, tuning_of

DETECTORS = classes_in(posthoc, Detector)


@click.command(cls=StageCommand)
@click.option(
    "--embeddings", required=True, type=click.Path(path_type=Path), help="Folder of embeddings files."
)
@click.option("--models", required=True, multiple=True, help="Model to evaluate; may be repeated.")
@click.option("--detectors", required=True, multiple=True, help="Detector to run; may be repeated.")
@click.option(
    "--search/--no-search", required=True, help="Choose settings from each detector's space on tuning sets."
)
@click.option("--seed", required=True, type=int)
@click.option("--out_results", required=True, help="JSON of metrics to write.")
@click.option("--out_scores", required=True, help="File of scores to write.")
@registry_options(DETECTORS)
def main(embeddings, models, detectors, search, seed, out_results, out_scores, **values):
    kinds = read_detectors(DETECTORS, detectors, values)
    files = [read_embeddings(embeddings, model, seed) for model in models]
    results = Results("posthoc", seed, files[0].id)
    for name, (kind, settings) in kinds.items():
        if not (search and kind.space):
            results.record_settings(settings, name)
    device = str(machine().device)
    skipped = 0
    bar = tqdm(total=len(files) * len(kinds), desc="posthoc", unit="detector", disable=None)
    with bar, blas_threads(files[0].size):
        for file in files:
            train, validation = (file.outputs(file.id, split) for split in ("train", "validation"))
            tests = outputs_to_test(file)
            results.roles |= file.roles
            tuning = tuning_of(file) if search else None
            for name, (kind, chosen) in kinds.items():
                detector = kind(chosen, seed=seed, device=device)
                if detector.suits(train):
                    if search and kind.space:
                        chosen, tried = best_settings(kind, chosen, tuning, seed=seed, device=device)
                        results.record_choice(chosen, f"{file.model}.{name}", tuning.source, tried)
                        detector = kind(chosen, seed=seed, device=device)
                    results.add(file.model, name, score_sets(detector.fit(train, validation), tests))
                else:
                    skipped += 1
                bar.update()
    results.save(out_results, out_scores)
    passed = f" ({skipped} passed over: the model has no head)" if skipped else ""
    click.echo(f"Wrote {out_results}: {results.summary()}{passed}.")


if __name__ == "__main__":
    main()
