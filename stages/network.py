"""Score the test images with detectors that ask the network: ODIN, Gram matrices, rotation scores.

Fits on ID train, or chooses on ID validation and the tuning set, never on a test set. A detector is passed
over where the model lacks what it reads (a classifier, a rotation head). Seconds for a quickstart model.
"""

from pathlib import Path

import click
from tqdm import tqdm

from stages.core.cli import StageCommand, read_section
from stages.evaluation.extract import check_batch_invariance
from stages.machine import machine
from stages.models.files import check_fits, load_model
from stages.ood.imagesets import check_disjoint, read_split, roles_of
from stages.ood.network.registry import NETWORK
from stages.ood.options import read_detectors, registry_options
from stages.ood.results import Results
from stages.opened import open_model


@click.command(cls=StageCommand)
@click.option("--model", required=True, help="Model file.")
@click.option("--id", "id_name", required=True, help="Name of the ID set.")
@click.option("--sets", required=True, help="FILE:KEY of the section with the sets and their roles.")
@click.option("--folder", required=True, type=click.Path(path_type=Path), help="Folder of image set files.")
@click.option("--detectors", required=True, multiple=True, help="Detector to run; may be repeated.")
@click.option("--out_results", required=True, help="JSON of metrics to write.")
@click.option("--out_scores", required=True, help="File of scores to write.")
@registry_options(NETWORK)
def main(model, id_name, sets, folder, detectors, out_results, out_scores, **values):
    kinds = read_detectors(NETWORK, detectors, values)
    section = read_section(sets)
    roles, tuning = roles_of(section, id_name, sets)
    check_disjoint(folder, section)
    device = machine().device
    network, meta = load_model(model, device)
    splits = {"train": id_name, "validation": id_name, "tuning": tuning}
    plan = {part: (name, "validation" if part == "tuning" else part) for part, name in splits.items()}
    plan |= {f"test {name}": (name, "test") for name in (id_name, *roles)}
    images = {}
    for part, place in plan.items():
        images[part], set_meta = read_split(folder, *place)
        check_fits(meta, set_meta, model, id_set=place[0] == id_name)
    preprocessing = {"mean": meta["mean"], "std": meta["std"]}
    check_batch_invariance(network, images["validation"], name=meta["name"], **preprocessing)
    opened = open_model(network, device=device, **preprocessing)
    made = {name: kind(settings) for name, (kind, settings) in kinds.items()}
    made = {name: detector for name, detector in made.items() if detector.suits(opened)}
    results = Results("network", meta["seed"], id_name)
    results.roles = {id_name: "id", **roles, tuning: "tuning"}
    tests = {name: images[f"test {name}"] for name in (id_name, *roles)}
    total = sum(len(images[part]) for detector in made.values() for part in detector.fitted_on)
    total += sum(map(len, tests.values())) * len(made)
    with tqdm(total=total, desc=f"network {meta['name']}", unit="image", disable=None) as bar:
        for name, detector in made.items():
            detector.fit(opened, images, bar.update)
            scores = {s: detector.score(opened, part, bar.update) for s, part in tests.items()}
            results.add(meta["name"], name, scores)
            results.settings(detector.settings, name)
            results.chosen |= {f"{name}.{key}": value for key, value in detector.chosen.items()}
    read = {part: ".".join(place) for part, place in plan.items() if part in splits}
    results.chosen["splits"] = {"value": read, "source": "params"}
    results.save(out_results, out_scores, model=meta["name"])
    passed = ", ".join(name for name in kinds if name not in made)
    note = f" (passed over: {passed})" if passed else ""
    click.echo(f"Wrote {out_results}: {results.summary()}{note}.")


if __name__ == "__main__":
    main()
