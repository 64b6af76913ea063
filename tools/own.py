"""Put your own folders of pictures into the profile `own`, for `make own`, and print its tables.

    make own IMAGES=normal                       a folder of normal pictures, flat or one folder per class
    make own IMAGES=normal NEAR=odd FAR=others   odd pictures to test on: like yours, and of other kinds
    make own IMAGES=normal TEST=later            normal pictures that are kept for the test
    make own IMAGES=normal J=2                   two stages at a time

No line has to be edited. Pictures that were added, changed or removed since the last run are noticed, which
`dvc repro` alone does not do, as it watches the path of a folder.
"""

import csv
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click
from ruamel.yaml.comments import CommentedMap

from sslood.cli.command import Command
from sslood.core.errors import InputError
from sslood.core.files import read_metadata, save_text
from sslood.core.names import path_cell, shown
from sslood.core.settings import load_params
from sslood.data.sets.roles.roles import ROLES
from sslood.data.sets.user_images import missing, read_user_images
from tools.switch import BASE, apply, keep_own, rendered, text_of
from tools.tidy import tidy

PROFILE = Path("profiles/own.yaml")
PARAMS = Path("params.yaml")
TABLES = ("headline", "decisions")


def place_of(name: str, text: str) -> Path:
    """Return the full path of a folder or of a list of pictures; InputError that names the variable."""
    place = Path(os.path.abspath(os.path.expanduser(text)))
    if not place.exists():
        raise InputError(f"{name}={text}: {missing(place)}")
    try:
        str(place).encode()
    except UnicodeEncodeError:  # params.yaml is UTF-8, and DVC reads it
        raise InputError(f"{name}={text}: its name is not UTF-8; rename it") from None
    return place


def list_with_test(images: Path, test: Path) -> str:
    """Return a list of pictures (CSV): those of `images` to train on, those of `test` to test on.

    Raises InputError if either has folders of splits, or `test` a class that `images` lacks.
    """
    rows, known = [], dict[str, set[str]]()
    for variable, place, split in (("IMAGES", images, "train"), ("TEST", test, "test")):
        splits, _ = read_user_images("own", place, ROLES["auxiliary"])
        if list(splits) != [""]:
            raise InputError(f"{variable}={place}: is cut into {', '.join(splits)} already; leave TEST out")
        pictures = splits[""]
        names = [shown(pictures.classes[label]) if label >= 0 else "" for label in pictures.labels]
        paths = (path_cell(os.path.abspath(path)) for path in pictures.images)
        rows += [(path, name, split) for path, name in zip(paths, names, strict=True)]
        known[variable] = set(names)
    if strange := sorted(known["TEST"] - known["IMAGES"]):
        raise InputError(
            f"TEST={test}: class {strange[0] or 'without a folder'!r} is not in {images}; give it the class "
            "folders of IMAGES, or name odd pictures by NEAR or FAR"
        )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("path", "label", "split"), *rows])
    return text.getvalue()


def filling(images: Path, near: Path | None, far: Path | None) -> Callable[[CommentedMap], None]:
    """Return what puts the folders into the params; sets without a folder are left out."""

    def fill(params: CommentedMap) -> None:
        for name, place in (("own", images), ("own_near", near), ("own_far", far)):
            if place is None:
                del params["sets"][name]
            else:
                params["sets"][name]["folder"] = str(place)

    return fill


def changed_sets(params: Path) -> list[str]:
    """Return the sets of `params` whose file was made from other pictures than its folder holds now."""
    content = load_params(params)
    sets, seen = content["sets"], dict[str, str]()
    changed = []
    for name, entry in sets.items():
        if entry["source"] != "folder":
            continue
        whose = content["id"] if "derive" in entry else name
        if whose not in seen:
            place, role = Path(sets[whose]["folder"]), ROLES[sets[whose]["role"]]
            seen[whose] = read_user_images(whose, place, role)[1]["sha256"]
        with suppress(InputError):  # no such file: the stage has failed, or has not run
            source = read_metadata(f"data/sets/{name}.safetensors", kind="set")["source"]
            if source.get("id", source).get("sha256") != seen[whose]:
                changed.append(name)
    return changed


def dvc(*arguments: str) -> None:
    """Run DVC, which gets a Ctrl-C too and ends in its own way; exit as it does if it fails."""
    process = subprocess.Popen([sys.executable, "-m", "dvc", *arguments])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    if process.returncode:
        sys.exit(process.returncode)


def prepare(images: str, near: str | None, far: str | None, test: str | None) -> None:
    """Write params.yaml for these folders, and make the files of sets whose pictures changed anew."""
    if not images:
        raise InputError("name the folder of your normal pictures: make own IMAGES=/path/to/folder")
    own = place_of("IMAGES", images)
    others = [place_of(name, text) if text else None for name, text in (("NEAR", near), ("FAR", far))]
    if test:
        listed = Path(os.environ.get("SSLOOD_SCRATCH") or "scratch").absolute() / "own.csv"
        save_text(listed, list_with_test(own, place_of("TEST", test)))
        own = listed
    fill = filling(own, *others)
    if PARAMS.is_file() and text_of(PARAMS) != rendered(PROFILE, BASE, fill):
        if (copy := keep_own(PARAMS, BASE)) is not None:
            click.echo(f"Your own params.yaml is kept; `cp {copy} params.yaml` brings it back.")
    if apply(PARAMS, PROFILE, BASE, fill):
        click.echo(f"params.yaml now holds {PROFILE} with your folders.")
        click.echo(tidy(Path.cwd()))
    names = [name for name, entry in load_params(PARAMS)["sets"].items() if entry["source"] == "folder"]
    dvc("repro", "--single-item", *(f"download@{name}" for name in names))
    if changed := changed_sets(PARAMS):
        click.echo(f"Pictures changed since {', '.join(changed)} was made: it is made again.")
        dvc("repro", "--single-item", "--force", *(f"download@{name}" for name in changed))


def show(metrics: Path = Path("metrics")) -> str:
    """Return the tables of the last run, and what to do with them."""
    texts = [(metrics / f"{name}.md").read_text(encoding="utf-8") for name in TABLES]
    tables = [text.partition("\n\nFalse alarms by")[0].strip() for text in texts]
    return "\n\n".join([*tables, "All rows: metrics/table.md. With figures: report/index.html"])


@click.command(cls=Command)
@click.option("--images", envvar="IMAGES", default="", help="Folder, or list, of normal pictures.")
@click.option("--near", envvar="NEAR", help="Odd pictures that are like these.")
@click.option("--far", envvar="FAR", help="Odd pictures of other kinds.")
@click.option("--test", envvar="TEST", help="Normal pictures that are kept for the test.")
@click.option("--show", "is_over", is_flag=True, help="Print the tables instead.")
def main(images: str, near: str | None, far: str | None, test: str | None, is_over: bool) -> None:
    if is_over:
        click.echo(show())
    else:
        prepare(images, near, far, test)


if __name__ == "__main__":
    main()
