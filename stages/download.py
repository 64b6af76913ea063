"""Fetch, verify and convert one image set into one file of uint8 images.

    python -m stages.download --list
    python -m stages.download --set letters --item params.yaml:sets.letters --id digits \\
        --id_item params.yaml:sets.digits --size 16 ... --out data/sets/letters.safetensors

A set without a download takes about a second, CIFAR-10 from a mirror folder a few seconds.
"""

from pathlib import Path

import click

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, setting_options
from sslood.core.errors import InputError
from sslood.core.files import save_tensors
from sslood.core.settings import read_section
from sslood.data.sets.build import build_set
from sslood.data.sets.cuts import ClassSettings, DataSettings
from sslood.data.sets.limits import Limit, table_of
from sslood.data.sets.listing import listing
from sslood.data.sets.source import all_sources, read_set_settings


def _list(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(listing(all_sources().values()))
        context.exit()


@click.command(cls=StageCommand)
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="Show the known sources."
)
@click.option("--set", "name", required=True, help="Name of the set.")
@click.option("--item", required=True, help="FILE:KEY of its entry: role, source and so on.")
@click.option("--id", "id_name", required=True, help="Name of the in-distribution (ID) set.")
@click.option("--id_item", required=True, help="FILE:KEY of the entry of the ID set.")
@setting_options(DataSettings)
@setting_options(ClassSettings)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
def main(name: str, item: str, id_name: str, id_item: str, out: Path, **values) -> None:
    """Fetch, verify and convert one image set."""
    data = read_settings(DataSettings, values, where="data")
    classes = read_settings(ClassSettings, values, where="classes")
    settings = read_set_settings(read_section(item), f"sets.{name}")
    if (name == id_name) != (settings.role == "id"):
        raise InputError(
            f"set {name!r} has role {settings.role!r}, but `id` names {id_name!r}; "
            "exactly the set named in `id` must have role id"
        )
    id_settings = read_set_settings(read_section(id_item), f"sets.{id_name}")
    tensors, metadata = build_set(name, settings, data, classes, id_settings)
    save_tensors(out, tensors, kind="set", metadata=metadata)
    splits = ", ".join(f"{count} {split}" for split, count in metadata["splits"].items())
    shape = f"{metadata['channels']}x{metadata['size']}x{metadata['size']}"
    skipped = sum(map(len, metadata["source"].get("unreadable", {}).values()))
    note = f"; {skipped} unreadable ones are left out and listed in its metadata" if skipped else ""
    done(out, f"{name}, {splits} images of {shape}{note}")
    if limits := [Limit(*row) for row in metadata.get("limits", [])]:
        click.echo(table_of(name, limits))


if __name__ == "__main__":
    main()
