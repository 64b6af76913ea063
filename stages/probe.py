"""How well the features of each model tell the ID classes apart: nearest neighbours, linear probe, own head.

Reads embeddings only. All models of the quickstart take seconds.
"""

import click
import numpy as np
from tqdm import tqdm

from stages.core.artefacts import load_tensors, read_metadata, save_json
from stages.core.cli import StageCommand
from stages.core.errors import InputError
from stages.models.probing import classified, probe_model
from stages.ood.risk import own_mistakes


@click.command(cls=StageCommand)
@click.option("--embeddings", required=True, help="Folder of the embeddings of this seed.")
@click.option("--models", required=True, multiple=True, help="Names of the models.")
@click.option("--seed", required=True, type=int)
@click.option("--knn.k", "ks", required=True, multiple=True, type=int, help="Chosen on ID validation.")
@click.option("--knn.temperature", "temperature", required=True, type=float)
@click.option("--linear.l2", "l2s", required=True, multiple=True, type=float, help="Chosen on ID validation.")
@click.option("--out", required=True, help="JSON file to write.")
def main(embeddings, models, seed, ks, temperature, l2s, out):
    results = {}
    for model in tqdm(models, desc="probe", unit="model", disable=None):
        path = f"{embeddings}/{model}.safetensors"
        meta = read_metadata(path, kind="embeddings")
        if meta["seed"] != seed or meta["model"] != model:
            found = f"{meta['model']!r} with seed {meta['seed']}"
            raise InputError(f"{path}: holds {found}, not {model!r} with seed {seed}; run `embed` again")
        sets = {split: _split(path, meta["id"], split) for split in ("train", "validation", "test")}
        results[model] = probe_model(
            sets, classes=len(meta["classes"]), ks=ks, temperature=temperature, l2s=l2s
        )
        if meta["model_metadata"]["head_classes"] is not None:
            logits = load_tensors(path, only=[f"{meta['id']}.test.logits"])[0].popitem()[1]
            results[model]["head"] = classified(logits, sets["test"][1]) | own_mistakes(
                logits, sets["test"][1]
            )
    chosen = {m: {"knn.k": r["knn"]["k"], "linear.l2": r["linear"]["l2"]} for m, r in results.items()}
    save_json(out, {"models": results, "chosen": chosen})
    best = max(results, key=lambda model: results[model]["knn"]["accuracy"])
    click.echo(
        f"wrote {out}: best nearest-neighbour accuracy {results[best]['knn']['accuracy']:.4f} ({best})"
    )


def _split(path: str, name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    keys = [f"{name}.{split}.{part}" for part in ("features", "labels")]
    tensors, _ = load_tensors(path, kind="embeddings", only=keys)
    return tensors[keys[0]], tensors[keys[1]]


if __name__ == "__main__":
    main()
