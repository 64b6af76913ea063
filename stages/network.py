"""Score the test images with detectors that ask the network: ODIN, Gram matrices, rotation scores.

Fits on ID train, or chooses on ID validation and the tuning set, never on a test set. A detector is passed
over where the model lacks what it reads (a classifier, a rotation head). Seconds for a quickstart model.
"""

from pathlib import Path

import click
from tqdm import tqdm

from sslood.cli.command import StageCommand
from sslood.cli.options import read_detectors, registry_options
from sslood.core.discovery import classes_in
from sslood.core.machine import machine
from sslood.core.settings import read_section
from sslood.nets.inference.extract import check_batch_invariance
from sslood.nets.networks.files import check_fits, load_model
from sslood.ood import network
from sslood.ood.kit.network_detector import NetworkDetector
from sslood.ood.kit.results import Results
from sslood.roles.roles import check_disjoint, read_split, roles_of
from sslood.views.network_view import open_model

NETWORK = classes_in(network, NetworkDetector)


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
    loaded, meta = load_model(model, device)
    splits = {"train": id_name, "validation": id_name, "tuning": tuning}
    plan = {part: (name, "validation" if part == "tuning" else part) for part, name in splits.items()}
    plan |= {f"test {name}": (name, "test") for name in (id_name, *roles)}
    images = {}
    for part, place in plan.items():
        images[part], set_meta = read_split(folder, *place)
        check_fits(meta, set_meta, model, id_set=place[0] == id_name)
    preprocessing = {"mean": meta["mean"], "std": meta["std"]}
    check_batch_invariance(loaded, images["validation"], name=meta["name"], **preprocessing)
    opened = open_model(loaded, device=device, **preprocessing)
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
            results.record_settings(detector.settings, name)
            results.chosen |= {f"{name}.{key}": value for key, value in detector.chosen.items()}
    read = {part: ".".join(place) for part, place in plan.items() if part in splits}
    results.chosen["splits"] = {"value": read, "source": "params"}
    results.save(out_results, out_scores, model=meta["name"])
    passed = ", ".join(name for name in kinds if name not in made)
    note = f" (passed over: {passed})" if passed else ""
    click.echo(f"Wrote {out_results}: {results.summary()}{note}.")


if __name__ == "__main__":
    main()
