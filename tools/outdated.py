"""Name the keys of params.yaml, and the environment variables, that have another name now.

    python -m tools.outdated

`make repro` runs it when `dvc repro` has failed, since DVC only says which key it misses. Prints nothing if
all names are current.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from sslood.cli.command import Command
from sslood.core.renamed import VARIABLES, renamed
from tools.switch import read_yaml


def keys(content: Mapping, above: str = "") -> Iterator[str]:
    """Yield every key of a mapping and of the mappings in it, in full: "train.lr"."""
    for key, value in content.items():
        yield f"{above}{key}"
        if isinstance(value, Mapping):
            yield from keys(value, f"{above}{key}.")


def outdated(params: Path, environment: Mapping[str, str]) -> list[str]:
    """Return a sentence for each key of a YAML file, or variable, that has another name now."""
    found = [(key, renamed(key)) for key in keys(read_yaml(params))]
    lines = [f"{params}: {key!r} is gone: {now}" for key, now in found if now]
    return lines + [f"{name} is gone: {now}" for name, now in VARIABLES.items() if name in environment]


@click.command(cls=Command)
def main() -> None:
    for line in outdated(Path("params.yaml"), os.environ):
        click.echo(line, err=True)


if __name__ == "__main__":
    main()
