"""Score the test images with detectors that query the network: ODIN, Gram matrices, rotation scores.

Fits on ID train and ID validation; an epsilon that is `auto` is chosen on ID validation and the tuning sets,
never on a test set. A detector is skipped if the model lacks what it reads (a classifier, a rotation head).
"""

from pathlib import Path

import click
from tqdm import tqdm

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_detectors, read_settings, registry_options, setting_options
from sslood.core.discovery import classes_in
from sslood.core.errors import LeftOut
from sslood.core.machine import machine
from sslood.core.precision import dtype_of
from sslood.core.settings import read_section
from sslood.data.sets.roles.roles import names_of_roles, read_split, read_tuning, roles_of, shifted_sets
from sslood.nets.networks.files import load_named
from sslood.ood import network
from sslood.ood.kit.network_detector import NetworkDetector
from sslood.ood.kit.network_evaluation import evaluate_network
from sslood.ood.kit.results import Results, validation_of
from sslood.views.network_view import NetworkSettings, checked_network

NETWORK = classes_in(network, NetworkDetector)


@click.command(cls=StageCommand)
@click.option("--name", help="Name of the model, which its file must hold.")
@click.option("--seed", type=int, help="Seed of the model, the same.")
@click.option("--model", required=True, help="Model file.")
@click.option("--id", "id_name", required=True, help="Name of the ID set.")
@click.option("--sets", required=True, help="FILE:KEY of the section with the sets and their roles.")
@click.option("--folder", required=True, type=click.Path(path_type=Path), help="Folder of image set files.")
@click.option("--out_results", required=True, help="JSON of metrics to write.")
@click.option("--out_scores", required=True, help="File of scores to write.")
@setting_options(NetworkSettings)
@registry_options(NETWORK)
def main(name, seed, model, id_name, sets, folder, detectors, out_results, out_scores, **values):
    kinds = read_detectors(NETWORK, detectors, values)
    settings = read_settings(NetworkSettings, values, where="network")
    section = read_section(sets)
    roles, tuning = roles_of(section, id_name, sets)
    try:
        loaded, card = load_named(model, name, seed, machine(settings.precision).device)
    except LeftOut as reason:
        results = Results("network", 0, id_name)
        results.leave_out(reason, Path(model).stem.rpartition("-")[0])
        results.save(out_results, out_scores)
        return done(out_results, results.summary())
    loaded.to(dtype_of(settings.precision))
    parts = {part: read_split(folder, id_name, part) for part in ("train", "validation")}
    tested_on = (id_name, *roles, *shifted_sets(section, sets))
    tests = {name: read_split(folder, name, "test") for name in tested_on}
    images, tested = ({name: pair[0] for name, pair in read.items()} for read in (parts, tests))
    about = [meta for _, meta in (*parts.values(), *tests.values())]
    splits = {part: f"{id_name}.{part}" for part in parts}
    if tuning:
        images["tuning"], others, splits["tuning"] = read_tuning(folder, tuning)
        about += others
    view = checked_network(loaded, card, model, images["train"], about)
    suited = {name: one for name, (kind, own) in kinds.items() if (one := kind(own)).suits(view)}
    results = Results("network", card.seed, id_name)
    results.roles = names_of_roles(section, sets)
    if not card.saw_validation:
        tested[validation_of(id_name)] = images["validation"]
    sizes = [len(images.get(part, ())) for detector in suited.values() for part in detector.fitted_on]
    total = sum(sizes) + len(suited) * sum(map(len, tested.values()))
    with tqdm(total=total, desc=f"network {card.name}", unit="image", disable=None) as bar:
        evaluate_network(card.name, view, suited, images, tested, results, bar.update)
    results.chosen["splits"] = {"value": splits, "source": "params"}
    results.save(out_results, out_scores, model=card.name)
    skipped = ", ".join(name for name in kinds if name not in suited)
    done(out_results, results.summary() + (f" (skipped: {skipped})" if skipped else ""))


if __name__ == "__main__":
    main()
