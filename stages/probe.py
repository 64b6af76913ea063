"""How well the features of each model separate the ID classes: nearest neighbours, linear probe, own head.

The linear probe is also fitted to a share of the labels, and to other labelled sets (role `transfer`).

Reads embeddings only. All models of the quickstart take seconds.
"""

import click
from tqdm import tqdm

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, setting_options
from sslood.core.errors import InputError
from sslood.core.files import load_tensors, read_metadata, save_json
from sslood.nets.probing.probes import (
    KNNProbeSettings,
    LinearProbeSettings,
    classified,
    probe_few_labels,
    probe_knn,
    probe_linear,
    read_splits,
    rounded,
)
from sslood.ood.measures.risk import own_mistakes


@click.command(cls=StageCommand)
@click.option("--embeddings", required=True, help="Folder of the embeddings of this seed.")
@click.option("--models", required=True, multiple=True, help="Names of the models.")
@click.option("--seed", required=True, type=int)
@click.option("--out", required=True, help="JSON file to write.")
@setting_options(KNNProbeSettings, "knn")
@setting_options(LinearProbeSettings, "linear")
def main(embeddings, models, seed, out, **values):
    knn = read_settings(KNNProbeSettings, values, "knn", "probe.knn")
    linear = read_settings(LinearProbeSettings, values, "linear", "probe.linear")
    results = {}
    for model in tqdm(models, desc="probe", unit="model", disable=None):
        path = f"{embeddings}/{model}.safetensors"
        meta = read_metadata(path, kind="embeddings")
        if meta["seed"] != seed or meta["model"] != model:
            other = f"{meta['model']!r} with seed {meta['seed']}"
            raise InputError(f"{path}: holds {other}, not {model!r} with seed {seed}; run `embed` again")
        results[model] = _records(path, meta, seed, knn, linear)
    chosen = {m: {"knn.k": r["knn"]["k"], "linear.l2": r["linear"]["l2"]} for m, r in results.items()}
    save_json(out, {"models": results, "chosen": chosen})
    best = max(results, key=lambda model: results[model]["knn"]["accuracy"])
    done(out, f"best nearest-neighbour accuracy {results[best]['knn']['accuracy']:.4f} ({best})")


def _records(
    path: str, meta: dict, seed: int, knn: KNNProbeSettings, linear: LinearProbeSettings
) -> dict[str, dict]:
    """Return the records of one model: knn, linear, linear_<share>, head, transfer_<set>."""
    sets = read_splits(path, meta["id"])
    classes = len(meta["classes"])
    records = {
        "knn": probe_knn(sets, knn, classes=classes),
        "linear": probe_linear(sets, linear.l2, classes=classes),
    }
    for share in linear.shares:
        records[f"linear_{share:g}"] = probe_few_labels(sets, share, linear.l2, classes=classes, seed=seed)
    if meta["model_metadata"]["head_classes"] is not None:
        logits = load_tensors(path, only=[f"{meta['id']}.test.logits"])[0].popitem()[1]
        labels = sets["test"][1]
        records["head"] = classified(logits, labels) | rounded(own_mistakes(logits, labels))
    for name, entry in meta["sets"].items():
        if entry["role"] == "transfer":
            other = read_splits(path, name)
            count = int(other["train"][1].max()) + 1
            records[f"transfer_{name}"] = probe_linear(other, linear.l2, classes=count)
    return records


if __name__ == "__main__":
    main()
