"""Score the test images with a deep ensemble: the probabilities of one classifier of several seeds, averaged.

Reads cached logits. Writes the rows msp and entropy of the mean probabilities, mutual_information and
variation_ratio, which say how the members differ, and the ensemble's accuracy. Seconds.
"""

from pathlib import Path

import click

from sslood.cli.command import StageCommand, done
from sslood.cli.sections import item_options
from sslood.core.errors import LeftOut
from sslood.ood.kit.deep_ensemble import evaluate_deep_ensemble
from sslood.ood.kit.outputs import read_embeddings
from sslood.ood.kit.results import Results


@click.command(cls=StageCommand)
@click.option(
    "--embeddings", required=True, type=click.Path(path_type=Path), help="Folder of a folder for each seed."
)
@click.option("--model", required=True, help="Classifier whose seeds are the members.")
@click.option("--seeds", required=True, multiple=True, type=int, help="Seed of a member; may be repeated.")
@click.option("--out_results", required=True, help="JSON of metrics to write.")
@click.option("--out_scores", required=True, help="File of scores to write.")
@item_options("name")
def main(embeddings, model, seeds, out_results, out_scores):
    name, results = f"deep_{model}", Results("deep_ensemble", seeds[0], "")
    results.extra["accuracy"] = {}
    note = ""
    try:
        files = [read_embeddings(embeddings / str(seed), model, seed) for seed in seeds]
        if len(files) < 2:
            raise LeftOut("needs 2 seeds in runs.seeds, there is 1")
        results.id = files[0].id
        share = evaluate_deep_ensemble(name, files, results)
        results.extra["accuracy"] = {name: share}
        note = f"; {len(files)} members, accuracy {share:.3f}"
    except LeftOut as reason:
        results.leave_out(reason, name)
    results.chosen["seeds"] = {"value": list(seeds), "source": "params"}
    results.save(out_results, out_scores, model=name)
    done(out_results, results.summary() + note)


if __name__ == "__main__":
    main()
