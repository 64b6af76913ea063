"""Score the test images with SSD: Mahalanobis distance to clusters of the features of ID train.

Writes the metrics of each OOD set and the score of each image. Clusters, covariance and ridge are values, or
`auto`: then those under which ID validation is most likely. Seconds for the quickstart, where noise and blobs
should reach an AUROC near 1 on a self-supervised encoder.
"""

from pathlib import Path

import click
from tqdm import tqdm

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, setting_options
from sslood.core.errors import LeftOut
from sslood.core.settings import autos
from sslood.core.threads import blas_threads
from sslood.ood.kit.results import outputs_to_test, results_of, score_sets
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
@setting_options(SSDSettings)
def main(embeddings, models, seed, out_results, out_scores, **values):
    settings = read_settings(SSDSettings, values)
    results, files = results_of("ssd", embeddings, models, seed)
    if not autos(settings):
        results.record_settings(settings, "ssd")
    skipped = []
    with blas_threads(sum(file.size for file in files[:1])):
        for file in tqdm(files, desc="ssd", unit="model", disable=None):
            train, validation = (file.outputs(file.id, split) for split in ("train", "validation"))
            results.roles |= file.roles
            if not SSD(settings).suits(train):
                skipped.append(file.model)
                continue
            chosen = settings
            try:
                if autos(settings):
                    chosen, tried = select_settings(settings, train, validation, seed)
                    results.record_choice(chosen, f"{file.model}.ssd", SOURCE, tried)
                detector = SSD(chosen, seed=seed).fit(train)
                results.add(file.model, "ssd", score_sets(detector, outputs_to_test(file)))
            except LeftOut as reason:
                results.leave_out(reason, file.model, "ssd")
    results.save(out_results, out_scores)
    note = f" (skipped, without {settings.layer}: {', '.join(skipped)})" if skipped else ""
    done(out_results, f"{results.summary()}{note}")


if __name__ == "__main__":
    main()
