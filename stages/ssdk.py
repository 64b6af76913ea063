"""Score the test images with SSD_k: SSD less the distance to k known images of the OOD set.

Each OOD set has its own detector, which knows some of its images; those are removed from the test set.
Writes, under the settings of the section and of each row of `rows`, mean and standard deviation of each
metric over repeats with other known images, and the scores of the first repeat. Seconds for the quickstart.
"""

import sys
from functools import partial
from itertools import product
from pathlib import Path

import click
from tqdm import tqdm

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, section_option, setting_options
from sslood.core.errors import LeftOut
from sslood.core.threads import blas_threads
from sslood.ood.kit.results import results_of
from sslood.ood.ssd.fewshot import evaluate_few_shot, fallbacks, same_picks
from sslood.ood.ssd.rows import check_rows, read_rows
from sslood.ood.ssd.ssdk import SSDkSettings


@click.command(cls=StageCommand)
@click.option(
    "--embeddings", required=True, type=click.Path(path_type=Path), help="Folder of embeddings files."
)
@click.option("--models", required=True, multiple=True, help="Model to evaluate; may be repeated.")
@click.option("--seed", required=True, type=int, help="Seed of the picks, and of the models.")
@section_option("rows", "more rows", partial(check_rows, SSDkSettings, "ssdk"), required=False)
@click.option("--out_results", required=True, help="JSON of metrics to write.")
@click.option("--out_scores", required=True, help="File of scores to write.")
@setting_options(SSDkSettings)
def main(embeddings, models, seed, rows, out_results, out_scores, **values):
    kinds = read_rows(rows, read_settings(SSDkSettings, values), "ssdk")
    results, files = results_of("ssdk", embeddings, models, seed)
    for name, one in kinds.items():
        results.record_settings(one, name)
    sets = len(kinds) * sum(len(file.ood_sets) for file in files)
    bar = tqdm(total=sets, desc="ssdk", unit="set", disable=None)
    with bar, blas_threads(sum(file.size for file in files[:1])):
        for file, (name, one) in product(files, kinds.items()):
            try:
                evaluate_few_shot(file, one, seed, results, bar.update, name)
            except LeftOut as reason:
                results.leave_out(reason, file.model, name)
    note = "scores of the first repeat; <model>.ssdk.<id> is the mean over the OOD sets, <id>.<set> each"
    results.save(out_results, out_scores, note=note)
    if advice := same_picks(results):
        print(f"ssdk: {advice}", file=sys.stderr)
    done(out_results, f"{results.summary()}, {kinds['ssdk'].repeats} repeats each{fallbacks(results)}")


if __name__ == "__main__":
    main()
