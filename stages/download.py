"""Fetch, verify and convert one image set into one file of uint8 images (see README, "Sets").

    python -m stages.download --list
    python -m stages.download --set letters --role far --id digits --size 16 ... --out letters.safetensors

A set without a download takes about a second, CIFAR-10 from a mirror folder a few seconds.
"""

from pathlib import Path

import click

from sslood.cli.command import StageCommand, done
from sslood.core.errors import InputError, known
from sslood.core.files import save_tensors
from sslood.data.fetching.catalogue import ROLES, find_entry, load_catalogue
from sslood.data.fetching.listing import listing
from sslood.data.sets.build import Settings, build_set


def _list(context: click.Context, option: click.Option, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(listing(load_catalogue()))
        context.exit()


@click.command(cls=StageCommand)
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="Show the known sets."
)
@click.option(
    "--set", "name", required=True, help="Name of the set: one of the known ones, or yours with --folder."
)
@click.option("--role", required=True, help="id, near, far, tuning, auxiliary or transfer.")
@click.option("--folder", type=click.Path(path_type=Path), help="Your pictures: a folder, or a CSV of paths.")
@click.option(
    "--skip_unreadable/--no-skip_unreadable",
    default=False,
    help="Leave out and list pictures that cannot be decoded.",
)
@click.option("--id", "id_name", required=True, help="Name of the in-distribution set.")
@click.option(
    "--size", type=click.IntRange(8, 1024), required=True, help="Side of the square images in pixels."
)
@click.option("--channels", type=click.Choice(["1", "3"]), required=True, help="1 grey, 3 RGB.")
@click.option(
    "--validation", type=click.FloatRange(0, 1, True, True), required=True, help="Share of ID train."
)
@click.option("--count", type=click.IntRange(8), required=True, help="Images per split of a synthetic set.")
@click.option(
    "--limit", type=click.IntRange(0), required=True, help="At most so many images per split; 0: all."
)
@click.option("--seed", type=int, required=True, help="Seed of the cuts and of synthetic images.")
@click.option("--heldout", multiple=True, help="ID classes held out as <id>_heldout; repeat the option.")
@click.option(
    "--test",
    type=click.FloatRange(0, 1, True, True),
    required=True,
    help="Test share where none is published.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
def main(name: str, role: str, folder: Path | None, id_name: str, channels: str, out: Path, **values) -> None:
    """Fetch, verify and convert one image set."""
    known(role, "role", ROLES)
    is_id = name == id_name
    if is_id != (role == "id"):
        raise InputError(
            f"set {name!r} has role {role!r}, but `id` names {id_name!r}; "
            "exactly the set named in `id` must have role id"
        )
    catalogue = load_catalogue()
    is_heldout = name == f"{id_name}_heldout"
    source = id_name if is_heldout else name
    entry = find_entry(source, catalogue) if folder is None else catalogue.get(source)
    if role == "transfer":
        values["heldout"] = ()
    settings = Settings(channels=int(channels), **values)
    tensors, metadata = build_set(
        name,
        entry,
        settings,
        id_entry=catalogue.get(id_name),
        is_id=is_id or role == "transfer",  # a set of its own with labels and a train split
        folder=folder,
        is_heldout=is_heldout,
        role=role,
    )
    save_tensors(out, tensors, kind="set", metadata=metadata)
    splits = ", ".join(f"{count} {split}" for split, count in metadata["splits"].items())
    shape = f"{metadata['channels']}x{metadata['size']}x{metadata['size']}"
    skipped = sum(map(len, metadata["source"].get("unreadable", {}).values()))
    told = f"; {skipped} unreadable ones are left out and listed in its metadata" if skipped else ""
    done(out, f"{name}, {splits} images of {shape}{told}")


if __name__ == "__main__":
    main()
