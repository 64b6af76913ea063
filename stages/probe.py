"""How well the features of each model tell the ID classes apart: nearest neighbours, linear probe, own head.

The linear probe also with a share of the labels, and on other labelled sets (role `transfer`).

Reads embeddings only. All models of the quickstart take seconds.
"""

import click
import numpy as np
from tqdm import tqdm

from sslood.cli.command import StageCommand, done
from sslood.core.errors import InputError
from sslood.core.files import load_tensors, read_metadata, save_json
from sslood.nets.probing.probes import classified, probe_few_labels, probe_linear, probe_model
from sslood.ood.measures.risk import own_mistakes


@click.command(cls=StageCommand)
@click.option("--embeddings", required=True, help="Folder of the embeddings of this seed.")
@click.option("--models", required=True, multiple=True, help="Names of the models.")
@click.option("--seed", required=True, type=int)
@click.option("--knn.k", "ks", required=True, multiple=True, type=int, help="Chosen on ID validation.")
@click.option("--knn.temperature", "temperature", required=True, type=float)
@click.option("--linear.l2", "l2s", required=True, multiple=True, type=float, help="Chosen on ID validation.")
@click.option("--linear.shares", "shares", multiple=True, type=float, help="Of ID train labels, beside all.")
@click.option("--out", required=True, help="JSON file to write.")
def main(embeddings, models, seed, out, **options):
    results = {}
    for model in tqdm(models, desc="probe", unit="model", disable=None):
        path = f"{embeddings}/{model}.safetensors"
        meta = read_metadata(path, kind="embeddings")
        if meta["seed"] != seed or meta["model"] != model:
            found = f"{meta['model']!r} with seed {meta['seed']}"
            raise InputError(f"{path}: holds {found}, not {model!r} with seed {seed}; run `embed` again")
        results[model] = _probed(path, meta, seed, **options)
    chosen = {m: {"knn.k": r["knn"]["k"], "linear.l2": r["linear"]["l2"]} for m, r in results.items()}
    save_json(out, {"models": results, "chosen": chosen})
    best = max(results, key=lambda model: results[model]["knn"]["accuracy"])
    done(out, f"best nearest-neighbour accuracy {results[best]['knn']['accuracy']:.4f} ({best})")


def _probed(path: str, meta: dict, seed: int, *, ks, temperature, l2s, shares) -> dict[str, dict]:
    """Return the records of one model: knn, linear, linear_<share>, head, transfer_<set>."""
    sets = _splits(path, meta["id"])
    classes = len(meta["classes"])
    found = probe_model(sets, classes=classes, ks=ks, temperature=temperature, l2s=l2s)
    for share in shares:
        record = probe_few_labels(sets, share, classes=classes, l2s=l2s, seed=seed)
        found[f"linear_{share:g}"] = record
    if meta["model_metadata"]["head_classes"] is not None:
        logits = load_tensors(path, only=[f"{meta['id']}.test.logits"])[0].popitem()[1]
        found["head"] = classified(logits, sets["test"][1]) | own_mistakes(logits, sets["test"][1])
    for name, entry in meta["sets"].items():
        if entry["role"] == "transfer":
            other = _splits(path, name)
            found[f"transfer_{name}"] = probe_linear(other, int(other["train"][1].max()) + 1, l2s)
    return found


def _splits(path: str, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return split -> (features, labels) of a set with training images."""
    found = {}
    for split in ("train", "validation", "test"):
        keys = [f"{name}.{split}.{part}" for part in ("features", "labels")]
        tensors, _ = load_tensors(path, kind="embeddings", only=keys)
        found[split] = tensors[keys[0]], tensors[keys[1]]
    return found


if __name__ == "__main__":
    main()
