"""How well the features of each model separate the ID classes: nearest neighbours, linear probe, own head.

The linear probe is also fitted to a share of the labels, and to other labelled sets (role `transfer`).

Reads embeddings only. All models of the quickstart take seconds.
"""

import click
from tqdm import tqdm

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, setting_options
from sslood.core.errors import InputError, LeftOut
from sslood.core.files import read_metadata, save_json
from sslood.nets.probing.model import probe_model
from sslood.nets.probing.probes import KNNProbeSettings, LinearProbeSettings
from sslood.ood.measures.risk import own_mistakes


@click.command(cls=StageCommand)
@click.option("--embeddings", required=True, help="Folder of the embeddings of this seed.")
@click.option("--models", required=True, multiple=True, help="Names of the models.")
@click.option("--seed", required=True, type=int)
@click.option("--out", required=True, help="JSON file to write.")
@click.option(
    "--images", "most", default=0, type=click.IntRange(0), help="Of ID train that probes learn from, 0 = all."
)
@setting_options(KNNProbeSettings, "knn")
@setting_options(LinearProbeSettings, "linear")
def main(embeddings, models, seed, out, most, **values):
    knn = read_settings(KNNProbeSettings, values, "knn", "probe.knn")
    linear = read_settings(LinearProbeSettings, values, "linear", "probe.linear")
    results, left_out = {}, []
    for model in tqdm(models, desc="probe", unit="model", disable=None):
        path = f"{embeddings}/{model}.safetensors"
        try:
            meta = read_metadata(path, kind="embeddings")
        except LeftOut as reason:
            left_out.append({"model": model, "detector": "", "set": "", "reason": reason.reason})
            continue
        if meta["seed"] != seed or meta["model"] != model:
            other = f"{meta['model']!r} with seed {meta['seed']}"
            raise InputError(f"{path}: holds {other}, not {model!r} with seed {seed}; run `embed` again")
        results[model], reasons = probe_model(
            path, meta, knn, linear, seed=seed, judge_head=own_mistakes, most=most
        )
        left_out += [
            {"model": model, "detector": f"accuracy {probe}", "set": "", "reason": reason}
            for probe, reason in reasons.items()
        ]
    keys = ("knn", "k"), ("linear", "l2")
    chosen = {m: {f"{p}.{key}": r[p][key] for p, key in keys if p in r} for m, r in results.items()}
    save_json(out, {"models": results, "chosen": chosen, **({"left_out": left_out} if left_out else {})})
    found = {model: probes["knn"]["accuracy"] for model, probes in results.items() if "knn" in probes}
    best = max(found, key=found.__getitem__, default=None)
    note = "no accuracies" if best is None else f"best nearest-neighbour accuracy {found[best]:.4f} ({best})"
    done(out, f"{note}; {len(left_out)} left out" if left_out else note)


if __name__ == "__main__":
    main()
