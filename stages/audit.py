"""Audit the image sets: what could make a result look better or worse than it is, from the files alone.

    python -m stages.audit --id digits --sets params.yaml:sets --folder data/sets --radius 32 \\
        --correlation 0.99 --out data/audit.safetensors --out_disjoint data/disjoint.json \\
        --out_outliers data/outliers.json

First a guard: no validation image of a tuning set may be a test image, or the stage stops, and with it
everything that chooses settings. Then for every test set: the artefact control (one number per image that
knows nothing of its content, as a detector), exact and near duplicates of images used for training or
model selection, and classes that the set shares with the ID set. `summarize` sets every detector beside the
control and gives its numbers with and without those images. Last, for every set that may serve as outliers,
the training images that are ID or test images, or of an ID class: what trains on outliers leaves them out.
Needs no GPU; CIFAR-10 with four full test sets takes about a minute on two cores.
"""

from pathlib import Path

import click
from tqdm import tqdm

from sslood.auditing import audit, outliers
from sslood.auditing.disjoint import check_disjoint
from sslood.auditing.overlap import AuditSettings
from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, section_option, setting_options
from sslood.core.files import save_json, save_tensors
from sslood.core.settings import read_section
from sslood.data.sets.roles.roles import names_of_roles, roles_of


def check_roles(where, given):
    return roles_of(read_section(where), given["id_name"], where)  # names what is missing


@click.command(cls=StageCommand)
@click.option("--id", "id_name", required=True, help="Name of the ID set.")
@section_option("sets", "the sets and their roles", check_roles)
@click.option("--folder", required=True, type=click.Path(path_type=Path), help="Folder of the set files.")
@setting_options(AuditSettings)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Audit file to write.")
@click.option(
    "--out_disjoint",
    required=True,
    type=click.Path(path_type=Path),
    help="JSON to write once the guard passes.",
)
@click.option(
    "--out_outliers", required=True, type=click.Path(path_type=Path), help="JSON of false outliers."
)
def main(id_name, sets, folder, out, out_disjoint, out_outliers, **values):
    """Audit the image sets: guard, artefact control, duplicates, shared classes."""
    settings = read_settings(AuditSettings, values, where="audit")
    section = read_section(sets)
    check_roles(sets, {"id_name": id_name})
    disjoint = check_disjoint(folder, section, sets)
    image_sets = audit.read_sets(folder, names_of_roles(section, sets))
    total = audit.comparisons(image_sets, id_name) + outliers.comparisons(image_sets, id_name)
    with tqdm(total=total, desc="audit", unit=" comparisons", unit_scale=True, disable=None) as bar:
        index = audit.indexer(image_sets)
        tensors, metadata = audit.audit(image_sets, id_name, settings, index, bar.update)
        false_outliers = outliers.false_outliers(image_sets, id_name, settings, index, bar.update)
    save_tensors(out, tensors, kind="audit", metadata={**metadata, "settings": vars(settings)})
    save_json(out_disjoint, disjoint)
    save_json(out_outliers, false_outliers)
    left_out = {name: numbers["left_out"] for name, numbers in metadata["sets"].items()}
    listed = ", ".join(f"{count} of {name}" for name, count in left_out.items() if count)
    shared = {name: ", ".join(numbers["shared_classes"]) for name, numbers in metadata["sets"].items()}
    classes = "".join(
        f"; {name} shares classes with the ID set: {own}" for name, own in shared.items() if own
    )
    done(out, f"{len(left_out)} sets; images to leave out: {listed or 'none'}{classes}")


if __name__ == "__main__":
    main()
