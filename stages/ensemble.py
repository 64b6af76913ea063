"""Score the test images with an ensemble of leave-out classifiers, with ODIN's temperature and perturbation.

Temperature, epsilon and target are chosen on ID validation and the tuning sets' validation splits, or on the
classes that each member leaves out, never on a test set. Writes the rows that `score_rows` names, that of
published steps if there are any, class predictions against the labels, and the score of each image.
"""

from pathlib import Path

import click
from tqdm import tqdm

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, section_option, setting_options
from sslood.core.errors import LeftOut
from sslood.core.files import load_tensors
from sslood.core.machine import machine
from sslood.core.settings import read_section
from sslood.data.sets.roles.roles import names_of_roles, read_split, read_tuning, roles_of, shifted_sets
from sslood.nets.networks.families import FAMILIES
from sslood.ood.kit.results import Results
from sslood.views.ensemble import EnsembleSettings
from sslood.views.ensemble_evaluation import Images, evaluate_ensemble
from sslood.views.members import load_members
from sslood.views.published_steps import check_steps, read_steps


@click.command(cls=StageCommand)
@click.option("--backbone", required=True, help="Name of the members' backbone.")
@click.option("--loss", required=True, type=click.Choice(list(FAMILIES)), help="Which kind of members.")
@click.option(
    "--members", required=True, type=click.Path(path_type=Path), help="Folder of the members' model files."
)
@click.option("--id", "id_name", required=True, help="Name of the ID set.")
@click.option("--sets", required=True, help="FILE:KEY of the section with the sets and their roles.")
@click.option("--folder", required=True, type=click.Path(path_type=Path), help="Folder of image set files.")
@section_option("steps", "published steps, by backbone and OOD set", check_steps, required=False)
@click.option("--out_results", required=True, help="JSON of metrics to write.")
@click.option("--out_scores", required=True, help="File of scores to write.")
@setting_options(EnsembleSettings)
def main(backbone, loss, members, id_name, sets, folder, steps, out_results, out_scores, **values):
    settings = read_settings(EnsembleSettings, values, where="ensemble")
    section = read_section(sets)
    roles, tuning = roles_of(section, id_name, sets)
    published = read_steps(steps, backbone, section, id_name)
    others = [*roles, *shifted_sets(section, sets)]
    plan = [(id_name, "validation"), *((name, "test") for name in (id_name, *others))]
    read = {part: read_split(folder, *part) for part in plan}
    images, meta = {part: found for part, (found, _) in read.items()}, read[id_name, "test"][1]
    metas, outliers = [found for _, found in read.values()], None
    if tuning and settings.choose_on == "tuning":
        outliers, about, _ = read_tuning(folder, tuning)
        metas += about
    device, model = machine(settings.precision).device, f"{FAMILIES[loss]}_{backbone}"
    results = Results("ensemble", 0, id_name)
    results.roles = names_of_roles(section, sets)
    try:
        ensemble, results.seed = load_members(members, metas, device, settings.precision, model)
    except LeftOut as reason:
        results.leave_out(reason, model)
        results.extra["accuracy"] = {}
        results.save(out_results, out_scores, backbone=backbone)
        return done(out_results, results.summary())
    names = ("validation.labels", "test.labels")
    labels, _ = load_tensors(folder / f"{id_name}.safetensors", kind="set", only=names)
    seen = Images(
        images[id_name, "validation"], labels[names[0]], outliers, images[id_name, "test"], labels[names[1]],
        {name: images[name, "test"] for name in others}, len(meta["classes"]),
    )  # fmt: skip
    with tqdm(desc=f"{model}", unit="image", disable=None) as bar:
        told = evaluate_ensemble(
            model, ensemble, seen, settings, results,
            published=published, device=device, progress=bar.update,
        )  # fmt: skip
    results.save(out_results, out_scores, backbone=backbone)
    done(out_results, f"{results.summary()}; {told}")


if __name__ == "__main__":
    main()
