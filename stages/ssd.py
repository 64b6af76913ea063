"""Score the test images with SSD: Mahalanobis distance to clusters of the features of ID train.

Writes the metrics of each OOD set and the score of each image, under the settings of the section and of each
row of `rows`. Clusters, covariance and ridge are values, or `auto`: then those under which ID validation is
most likely. Seconds for the quickstart, where noise and blobs should reach an AUROC near 1 on a
self-supervised encoder.
"""

from functools import partial
from pathlib import Path

import click
from tqdm import tqdm

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, section_option, setting_options
from sslood.core.errors import LeftOut
from sslood.core.settings import autos
from sslood.core.threads import blas_threads
from sslood.ood.kit.results import outputs_to_test, results_of, score_sets
from sslood.ood.ssd.rows import check_rows, read_rows
from sslood.ood.ssd.selection import SOURCE, select_settings
from sslood.ood.ssd.ssd import SSD, SSDSettings


@click.command(cls=StageCommand)
@click.option(
    "--embeddings", required=True, type=click.Path(path_type=Path), help="Folder of embeddings files."
)
@click.option("--models", required=True, multiple=True, help="Model to evaluate; may be repeated.")
@click.option("--seed", required=True, type=int, help="Seed of k-means, and of the models.")
@section_option("rows", "more rows", partial(check_rows, SSDSettings, "ssd"), required=False)
@click.option("--out_results", required=True, help="JSON of metrics to write.")
@click.option("--out_scores", required=True, help="File of scores to write.")
@setting_options(SSDSettings)
def main(embeddings, models, seed, rows, out_results, out_scores, **values):
    kinds = read_rows(rows, read_settings(SSDSettings, values), "ssd")
    results, files = results_of("ssd", embeddings, models, seed)
    for name, one in kinds.items():
        if not autos(one):
            results.record_settings(one, name)
    skipped = []
    with blas_threads(sum(file.size for file in files[:1])):
        for file in tqdm(files, desc="ssd", unit="model", disable=None):
            train, validation = (file.outputs(file.id, split) for split in ("train", "validation"))
            results.roles |= file.roles
            own = {name: one for name, one in kinds.items() if SSD(one).suits(train)}
            skipped += [f"{file.model} without {kinds[name].layer}" for name in kinds if name not in own]
            for name, chosen in own.items():
                try:
                    if autos(chosen):
                        chosen, tried = select_settings(chosen, train, validation, seed)
                        results.record_choice(chosen, f"{file.model}.{name}", SOURCE, tried)
                    detector = SSD(chosen, seed=seed).fit(train)
                    results.add(file.model, name, score_sets(detector, outputs_to_test(file)))
                except LeftOut as reason:
                    results.leave_out(reason, file.model, name)
    results.save(out_results, out_scores)
    note = f" (skipped: {', '.join(dict.fromkeys(skipped))})" if skipped else ""
    done(out_results, f"{results.summary()}{note}")


if __name__ == "__main__":
    main()
