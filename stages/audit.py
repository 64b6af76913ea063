"""Audit the image sets: what could make a result look better or worse than it is, from the files alone.

For every test set: the artefact control (as a detector, one number per image that knows nothing of its
content), exact and near duplicates of images that something is learnt from or chosen on, and classes that the
set shares with the ID set. `summarize` sets every detector beside the control and gives its numbers with and
without those images. Needs no GPU; CIFAR-10 with four full test sets takes about a minute on two cores.
"""

from pathlib import Path

import click
from tqdm import tqdm

from sslood.auditing.audit import audit, read_sets
from sslood.auditing.overlap import Rules
from sslood.cli.command import StageCommand, done
from sslood.core.files import save_tensors
from sslood.core.settings import read_section
from sslood.roles.roles import roles_of


@click.command(cls=StageCommand)
@click.option("--id", "id_name", required=True, help="Name of the ID set.")
@click.option("--sets", required=True, help="FILE:KEY of the sets and their roles.")
@click.option("--folder", required=True, type=click.Path(path_type=Path), help="Folder of the set files.")
@click.option(
    "--radius",
    required=True,
    type=click.IntRange(0, 128),
    help="Unequal bits of a 128-bit perceptual hash up to which two images are compared.",
)
@click.option(
    "--correlation",
    required=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Correlation of the edges from which on they are near duplicates.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write.")
def main(id_name, sets, folder, radius, correlation, out) -> None:
    """Audit the image sets."""
    section = read_section(sets)
    roles_of(section, id_name, sets)  # names what is missing
    roles = {name: (entry or {}).get("role") for name, entry in section.items()}
    tests = sum(role in ("id", "near", "far") for role in roles.values())
    with tqdm(total=tests, desc="audit", unit="set", disable=None) as bar:
        tensors, metadata = audit(
            read_sets(folder, roles), id_name, Rules(radius, correlation), lambda name: bar.update()
        )
    settings = {"radius": radius, "correlation": correlation}
    save_tensors(out, tensors, kind="audit", metadata={**metadata, "settings": settings})
    found = metadata["sets"]
    told = ", ".join(f"{one['left_out']} of {name}" for name, one in found.items() if one["left_out"])
    done(out, f"{len(found)} sets; images to leave out: {told or 'none'}")


if __name__ == "__main__":
    main()
