"""Score the test images with SSD_k: SSD less the distance to k known images of the OOD set.

Each OOD set has its own detector, which knows some of its images; those are removed from the test set.
Writes mean and standard deviation of each metric over repeats with other known images, and the scores of the
first repeat. Seconds for the quickstart.
"""

from pathlib import Path

import click
from tqdm import tqdm

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, setting_options
from sslood.core.errors import LeftOut
from sslood.core.threads import blas_threads
from sslood.ood.kit.results import results_of
from sslood.ood.ssd.fewshot import evaluate_few_shot, fallbacks
from sslood.ood.ssd.ssdk import SSDkSettings


@click.command(cls=StageCommand)
@click.option(
    "--embeddings", required=True, type=click.Path(path_type=Path), help="Folder of embeddings files."
)
@click.option("--models", required=True, multiple=True, help="Model to evaluate; may be repeated.")
@click.option("--seed", required=True, type=int, help="Seed of the picks, and of the models.")
@click.option("--out_results", required=True, help="JSON of metrics to write.")
@click.option("--out_scores", required=True, help="File of scores to write.")
@setting_options(SSDkSettings)
def main(embeddings, models, seed, out_results, out_scores, **values):
    settings = read_settings(SSDkSettings, values)
    results, files = results_of("ssdk", embeddings, models, seed)
    results.record_settings(settings, "ssdk")
    bar = tqdm(total=sum(len(file.ood_sets) for file in files), desc="ssdk", unit="set", disable=None)
    with bar, blas_threads(sum(file.size for file in files[:1])):
        for file in files:
            try:
                evaluate_few_shot(file, settings, seed, results, bar.update)
            except LeftOut as reason:
                results.leave_out(reason, file.model, "ssdk")
    note = "scores of the first repeat; <model>.ssdk.<id> is the mean over the OOD sets, <id>.<set> each"
    results.save(out_results, out_scores, note=note)
    done(out_results, f"{results.summary()}, {settings.repeats} repeats each{fallbacks(results)}")


if __name__ == "__main__":
    main()
