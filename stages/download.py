"""Fetch, verify and convert one image set into one file of uint8 images.

    python -m stages.download --list
    python -m stages.download --set letters --item params.yaml:sets.letters --id digits \\
        --id_item params.yaml:sets.digits --size 16 ... --out data/sets/letters.safetensors

A set without a download takes about a second, CIFAR-10 from a mirror folder a few seconds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, section_option, setting_options
from sslood.core.files import save_tensors
from sslood.core.names import shown
from sslood.data.sets.build import build_set
from sslood.data.sets.cuts import NEW, ClassSettings, DataSettings
from sslood.data.sets.entries import read_entries, source_of
from sslood.data.sets.limits import Limit, table_of
from sslood.data.sets.listing import listing
from sslood.data.sets.source import all_sources


def _list(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(listing(all_sources().values()))
        context.exit()


def _of_stage(context: click.Context, option: click.Parameter, name: str) -> str:
    return name.removeprefix("download@")


def _check_item(where: str, given: Mapping[str, Any]) -> None:
    id_item = f"{where.rpartition('.')[0]}.{given['id_name']}"
    source_of(*read_entries(given["name"], where, given["id_name"], id_item), f"sets.{given['name']}")


@click.command(cls=StageCommand)
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="Show the known sources."
)
@click.option(
    "--set",
    "name",
    required=True,
    callback=_of_stage,
    help="Name of the set, or of its stage.",
)
@section_option("item", "its entry: role, source and so on", _check_item)
@click.option("--id", "id_name", required=True, help="Name of the in-distribution (ID) set.")
@click.option("--id_item", required=True, help="FILE:KEY of the entry of the ID set.")
@setting_options(DataSettings, optional=NEW)
@setting_options(ClassSettings)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
def main(name: str, item: str, id_name: str, id_item: str, out: Path, **values) -> None:
    """Fetch, verify and convert one image set."""
    data = read_settings(DataSettings, values, where="data")
    classes = read_settings(ClassSettings, values, where="classes")
    settings, id_settings = read_entries(name, item, id_name, id_item)
    tensors, metadata = build_set(name, settings, data, classes, id_settings)
    save_tensors(out, tensors, kind="set", metadata=metadata)
    for note in metadata["source"].get("notes", []):
        click.echo(f"{name}: {shown(note)}", err=True)
    splits = ", ".join(f"{count} {split}" for split, count in metadata["splits"].items())
    shape = f"{metadata['channels']}x{metadata['size']}x{metadata['size']}"
    skipped = sum(map(len, metadata["source"].get("unreadable", {}).values()))
    note = f"; {skipped} unreadable ones are left out and listed in its metadata" if skipped else ""
    done(out, f"{name}, {splits} images of {shape}{note}")
    if limits := [Limit(*row) for row in metadata.get("limits", [])]:
        click.echo(table_of(name, limits))


if __name__ == "__main__":
    main()
