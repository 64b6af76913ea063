"""The stage `download` on entries of `sets`, as dvc.yaml runs it."""

from pathlib import Path
from typing import Any

import click
import yaml
from click.testing import CliRunner, Result

from stages.download import main

DIGITS = {"role": "id", "source": "digits"}


def download_words(
    out: Path, name: str, item: Any, settings: dict[str, Any], id_name: str = "digits", id_item: Any = None
) -> list[str]:
    """Write the entries to a params file beside `out`'s folder and return the words of the command.

    item, id_item: the entries of the set and of the ID set; settings: the sections `data` and `classes`.
    """
    params = Path(f"{out}.params.yaml") if out.parent.is_dir() else Path(out.parents[1], "params.yaml")
    sets = {id_name: id_item or (item if name == id_name else DIGITS), name: item}
    params.write_text(yaml.safe_dump({"sets": sets}))
    words = ["--set", name, "--item", f"{params}:sets.{name}", "--out", str(out)]
    words += ["--id", id_name, "--id_item", f"{params}:sets.{id_name}"]
    for key, value in settings.items():
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{key}", str(one)]
    return words


def plain_command() -> click.Command:
    """The command without StageCommand's handling, so that tests see the InputError itself."""
    return click.Command("download", callback=main.callback, params=main.params)


def invoke(words: list[str]) -> Result:
    """Run the command as a user does."""
    return CliRunner().invoke(main, words)
