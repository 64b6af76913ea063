"""Score the test images with SSD: Mahalanobis distance to clusters of the features of ID train.

Writes the metrics of each OOD set and the score of each image. With --select the cluster count and the
shrinkage are those under which ID validation is likeliest. Seconds for the quickstart, where
noise and blobs should come out near AUROC 1 on a self-supervised encoder.
"""

from pathlib import Path

import click
from tqdm import tqdm

from sslood.cli.command import StageCommand
from sslood.cli.options import read_settings, setting_options
from sslood.core.threads import blas_threads
from sslood.ood.kit.outputs import read_embeddings
from sslood.ood.kit.results import Results, outputs_to_test, score_sets
from sslood.ood.ssd.selection import SOURCE, select_settings
from sslood.ood.ssd.ssd import SSD, SSDSettings


@click.command(cls=StageCommand)
@click.option(
    "--embeddings", required=True, type=click.Path(path_type=Path), help="Folder of embeddings files."
)
@click.option("--models", required=True, multiple=True, help="Model to evaluate; may be repeated.")
@click.option("--seed", required=True, type=int, help="Seed of k-means, and of the models.")
@click.option("--out_results", required=True, help="JSON of metrics to write.")
@click.option("--out_scores", required=True, help="File of scores to write.")
@click.option(
    "--select/--no-select",
    required=True,
    help="Choose clusters and shrinkage by the likelihood of ID validation.",
)
@setting_options(SSDSettings)
def main(embeddings, models, seed, select, out_results, out_scores, **values):
    settings = read_settings(SSDSettings, values)
    files = [read_embeddings(embeddings, model, seed) for model in models]
    results = Results("ssd", seed, files[0].id)
    if not select:
        results.record_settings(settings)
    skipped = []
    with blas_threads(files[0].size):
        for file in tqdm(files, desc="ssd", unit="model", disable=None):
            train, validation = (file.outputs(file.id, split) for split in ("train", "validation"))
            detector = SSD(settings, seed=seed)
            results.roles |= file.roles
            if train.has(detector.reads):
                if select:
                    chosen, tried = select_settings(settings, train, validation, seed)
                    results.record_choice(chosen, file.model, SOURCE, tried)
                    detector = SSD(chosen, seed=seed)
                results.add(file.model, "ssd", score_sets(detector.fit(train), outputs_to_test(file)))
            else:
                skipped.append(file.model)
    results.save(out_results, out_scores)
    passed = f" (passed over, without {settings.layer}: {', '.join(skipped)})" if skipped else ""
    click.echo(f"Wrote {out_results}: {results.summary()}{passed}.")


if __name__ == "__main__":
    main()
