"""Score the test images with an ensemble of leave-out classifiers, with ODIN's temperature and perturbation.

epsilon is chosen on ID validation and the tuning set's validation split, never on a test set. Writes
the rows eloc (the paper's score), eloc_max and eloc_entropy (its two halves), eloc_noodin (T = 1,
epsilon = 0), the accuracy of the ensemble's class predictions, and the score of each image.
"""

from pathlib import Path

import click
from tqdm import tqdm

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, setting_options
from sslood.core.errors import LeftOut
from sslood.core.files import load_tensors
from sslood.core.machine import machine
from sslood.core.settings import read_section
from sslood.data.sets.roles.roles import names_of_roles, read_split, roles_of, shifted_sets
from sslood.ood.kit.network_evaluation import NO_TUNING
from sslood.ood.kit.results import Results
from sslood.views.ensemble import EnsembleSettings, accuracy, evaluate
from sslood.views.members import load_members


@click.command(cls=StageCommand)
@click.option("--backbone", required=True, help="Name of the members' backbone.")
@click.option(
    "--members", required=True, type=click.Path(path_type=Path), help="Folder of the members' model files."
)
@click.option("--id", "id_name", required=True, help="Name of the ID set.")
@click.option("--sets", required=True, help="FILE:KEY of the section with the sets and their roles.")
@click.option("--folder", required=True, type=click.Path(path_type=Path), help="Folder of image set files.")
@click.option("--out_results", required=True, help="JSON of metrics to write.")
@click.option("--out_scores", required=True, help="File of scores to write.")
@setting_options(EnsembleSettings)
def main(backbone, members, id_name, sets, folder, out_results, out_scores, **values):
    settings = read_settings(EnsembleSettings, values, where="ensemble")
    section = read_section(sets)
    roles, tuning = roles_of(section, id_name, sets)
    chosen_on = [(id_name, "validation"), *([(tuning, "validation")] if tuning else [])]
    plan = [*chosen_on, *((name, "test") for name in (id_name, *roles, *shifted_sets(section, sets)))]
    read = [read_split(folder, *item) for item in plan]
    images, metas = [part for part, _ in read], [meta for _, meta in read]
    device, model = machine(settings.precision).device, f"leaveout_{backbone}"
    try:
        ensemble, seed = load_members(members, metas, device, settings.precision)
    except LeftOut as reason:
        results = Results("ensemble", 0, id_name)
        results.leave_out(reason, model)
        results.extra["accuracy"] = {}
        results.save(out_results, out_scores, backbone=backbone)
        return done(out_results, results.summary())
    tests = {name: part for (name, split), part in zip(plan, images, strict=True) if split == "test"}
    total = sum(map(len, images)) * len(ensemble)
    with tqdm(total=total, desc=f"ensemble {backbone}", unit="image", disable=None) as bar:
        evaluation = evaluate(
            ensemble, (images[0], images[1]) if tuning else None, tests,
            settings=settings, classes=len(metas[0]["classes"]), device=device, progress=bar.update,
        )  # fmt: skip
    results = Results("ensemble", seed, id_name)
    results.roles = names_of_roles(section, sets)
    for detector in () if "eloc" in evaluation.rows[id_name] else ("eloc", "eloc_max", "eloc_entropy"):
        results.leave_out(NO_TUNING, model, detector)
    for detector in evaluation.rows[id_name]:
        results.add(model, detector, {name: rows[detector] for name, rows in evaluation.rows.items()})
    source = f"highest AUROC on {id_name}.validation against {tuning}.validation"
    results.chosen = {
        "temperature": {"value": settings.temperature, "source": "params"},
        "epsilon": {"value": evaluation.epsilon, "source": source, "candidates": evaluation.aurocs},
    }
    labels, _ = load_tensors(folder / f"{id_name}.safetensors", kind="set", only=["test.labels"])
    share = accuracy(evaluation.plain[id_name], labels["test.labels"])
    results.extra["accuracy"] = {model: share}
    results.save(out_results, out_scores, backbone=backbone)
    done(out_results, f"{results.summary()}; epsilon {evaluation.epsilon}, accuracy {share:.3f}")


if __name__ == "__main__":
    main()
