"""Score the test images with an ensemble of leave-out classifiers, with ODIN's temperature and perturbation.

epsilon is chosen on ID validation and the tuning set's validation split, never on a test set. Writes
the rows eloc (the paper's score), eloc_max and eloc_entropy (its two halves), eloc_noodin (T = 1,
epsilon = 0), the accuracy of the ensemble's class predictions, and the score of each image.
"""

from functools import partial
from pathlib import Path

import click
from tqdm import tqdm

from stages.core.artefacts import load_tensors
from stages.core.cli import StageCommand, read_section
from stages.core.errors import InputError
from stages.machine import machine
from stages.models.files import check_fits, load_model
from stages.ood.imagesets import read_split, roles_of
from stages.ood.leaveout import Member, accuracy, choose_epsilon, ensemble_votes, score_rows
from stages.ood.results import Results


def load_members(folder: Path, set_metas: list[dict], device) -> tuple[list[Member], int]:
    """Return (the members by name, the seed of the first).

    set_metas: metadata of the ID set, then of the others. Raises InputError if there is no member, or
    one was made for other images or classes.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise InputError(f"{folder}: no leave-out classifiers; run `dvc repro leaveout`")
    members, seeds = [], []
    for path in paths:
        model, metadata = load_model(path, device)
        for place, set_meta in enumerate(set_metas):
            check_fits(metadata, set_meta, path, id_set=place == 0)
        if metadata["head_classes"] is None:
            raise InputError(f"{path}: this model has no classifier head; run `dvc repro leaveout`")
        members.append(
            Member(model.requires_grad_(False), metadata["head_classes"], metadata["mean"], metadata["std"])
        )
        seeds.append(metadata["seed"])
    return members, seeds[0]


@click.command(cls=StageCommand)
@click.option("--arch", required=True, help="Name of the members' architecture.")
@click.option(
    "--members", required=True, type=click.Path(path_type=Path), help="Folder of the members' model files."
)
@click.option("--id", "id_name", required=True, help="Name of the ID set.")
@click.option("--sets", required=True, help="FILE:KEY of the section with the sets and their roles.")
@click.option("--folder", required=True, type=click.Path(path_type=Path), help="Folder of image set files.")
@click.option("--temperature", required=True, type=click.FloatRange(min=0, min_open=True))
@click.option(
    "--epsilons",
    required=True,
    multiple=True,
    type=click.FloatRange(min=0),
    help="Candidate, in pixels of [0, 1].",
)
@click.option("--out_results", required=True, help="JSON of metrics to write.")
@click.option("--out_scores", required=True, help="File of scores to write.")
def main(arch, members, id_name, sets, folder, temperature, epsilons, out_results, out_scores):
    roles, tuning = roles_of(read_section(sets), id_name, sets)
    plan = [(id_name, "validation"), (tuning, "validation"), *((name, "test") for name in (id_name, *roles))]
    images, metas = {}, []
    for item in plan:
        images[item], meta = read_split(folder, *item)
        metas.append(meta)
    device = machine().device
    ensemble, seed = load_members(members, metas, device)
    total = sum(len(part) for part in images.values()) * len(ensemble)
    with tqdm(total=total, desc=f"ensemble {arch}", unit="image", disable=None) as bar:
        how = {"gradient_temperature": temperature, "device": device, "progress": bar.update}
        vote = partial(ensemble_votes, ensemble, classes=len(metas[0]["classes"]), **how)
        candidates = [
            vote(images[item], [(temperature, epsilon) for epsilon in epsilons]) for item in plan[:2]
        ]
        epsilon, aurocs = choose_epsilon(epsilons, *candidates)
        tests = {item[0]: vote(images[item], [(temperature, epsilon), (1.0, 0.0)]) for item in plan[2:]}
    results = Results("ensemble", seed, id_name)
    rows = {name: score_rows(*votes) for name, votes in tests.items()}
    for detector in rows[id_name]:
        results.add(f"leaveout_{arch}", detector, {name: scores[detector] for name, scores in rows.items()})
    source = f"highest AUROC on {id_name}.validation against {tuning}.validation"
    results.chosen = {
        "temperature": {"value": temperature, "source": "params"},
        "epsilon": {"value": epsilon, "source": source, "candidates": aurocs},
    }
    labels, _ = load_tensors(folder / f"{id_name}.safetensors", kind="set", only=["test.labels"])
    share = accuracy(tests[id_name][1], labels["test.labels"])
    results.extra["accuracy"] = {f"leaveout_{arch}": share}
    results.roles = {id_name: "id", **roles, tuning: "tuning"}
    results.save(out_results, out_scores, arch=arch)
    click.echo(f"Wrote {out_results}: {results.summary()}; epsilon {epsilon}, accuracy {share:.3f}.")


if __name__ == "__main__":
    main()
