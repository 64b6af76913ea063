"""Put a profile's values into params.yaml, between the quickstart's comments and in its order.

    make profile P=cifar10        (or: python -m tools.switch profiles/cifar10.yaml)

A profile lists only what differs from the quickstart, so the quickstart's values go in first. Outputs that
no stage of the new graph declares are then removed; DVC's cache restores them when you go back.
"""

import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from sslood.cli.command import Command
from sslood.core.errors import InputError
from sslood.core.files import save_text
from sslood.core.renamed import renamed
from sslood.data.sets.source import source_named, with_sources
from tools.tidy import tidy

BASE = Path("profiles/quickstart.yaml")
# mappings whose keys a profile chooses itself (names of sets, objectives and methods, adopted models,
# detectors that only some models have, the parts of an augmentation): a profile replaces them as a whole
WHOLE = re.compile(
    r"sets|backbones|objectives|methods|outliers|models|published|sweeps|stochastic|ssd_rows|ssdk_rows"
    r"|ensemble_steps|augment\.\w+"
)


def _yaml() -> YAML:
    """Return a reader and writer that breaks lines where DVC's breaks them."""
    yaml = YAML()
    yaml.preserve_quotes = True
    return yaml


def text_of(path: Path) -> str:
    """Return the text of a YAML file; InputError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid YAML: {error}; save it as UTF-8") from None


def read_yaml(path: Path) -> CommentedMap:
    """Return the mapping in a YAML file; InputError if the file is missing, broken or not a mapping."""
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml"))) or "none"
        raise InputError(f"{path}: no such profile; there are: {names}")
    try:
        content = _yaml().load(text_of(path))
    except YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, CommentedMap):
        raise InputError(f"{path}: must hold keys and values")
    return content


def bare(value: Any) -> Any:
    """Return a copy of a YAML value without its comments, {a: b} on one line, lists as DVC writes them."""
    copy: CommentedMap | CommentedSeq
    if not isinstance(value, CommentedMap | CommentedSeq):
        return value
    if isinstance(value, CommentedMap):
        copy = CommentedMap((key, bare(item)) for key, item in value.items())
    else:
        copy = CommentedSeq(bare(item) for item in value)
    if value.fa.flow_style() and isinstance(copy, CommentedMap):
        copy.fa.set_flow_style()
    return copy


def merge(params: CommentedMap, changes: Mapping, source: str, at: str = "") -> None:
    """Update `params` with `changes` in place; InputError for a key that `params` does not have.

    `params` keeps its comments and its order. Lists, and the mappings that `WHOLE` matches, are replaced.
    source: the file of the changes, for messages; at: the keys above, each with a dot.
    """
    for key, value in changes.items():
        name = f"{at}{key}"
        if key not in params:
            if now := renamed(name):
                raise InputError(f"{source}: {name!r} is gone: {now}")
            near = get_close_matches(str(key), map(str, params), n=1)
            hint = f" (did you mean {at + near[0]!r}?)" if near else ""
            raise InputError(f"{source}: key {name!r} is not in params.yaml{hint}")
        if isinstance(value, Mapping) != isinstance(params[key], Mapping):
            raise InputError(
                f"{source}: {name!r} must be a {'mapping' if isinstance(params[key], Mapping) else 'value'}"
            )
        if isinstance(value, Mapping) and not WHOLE.fullmatch(name):
            merge(params[key], value, source, f"{name}.")
        elif params[key] != value:
            params[key] = value


def need_sources(sets: Mapping, id_name: str, where: str) -> None:
    """Raise InputError, saying what to write, for entries of `sets` whose source is missing or unknown."""
    for name, entry in sets.items():
        if not isinstance(entry, Mapping | None):
            raise InputError(
                f"{where}: sets.{name}: must hold keys and values, e.g. {{role: far, source: {name}}}"
            )
    now = with_sources(sets, id_name)
    old = [name for name, entry in sets.items() if "source" not in (entry or {})]
    if old:
        texts = [f"{name}: {{{', '.join(f'{k}: {v}' for k, v in now[name].items())}}}" for name in old]
        raise InputError(f"{where}: an entry of `sets` names its source now; write `{'`, `'.join(texts)}`")
    for name, entry in sets.items():
        source_named(str(entry["source"]), f"{where}: sets.{name}")


def _text(content: CommentedMap) -> str:
    text = StringIO()
    _yaml().dump(content, text)
    return text.getvalue()


def rendered(profile: Path, base: Path, fill: Callable[[CommentedMap], object] | None = None) -> str:
    """Return the text of params.yaml that holds `base` with the values of `profile`, changed by `fill`."""
    content = read_yaml(base)
    if profile.resolve() != base.resolve():
        merge(content, bare(read_yaml(profile)), str(profile))  # its comments explain the profile, not params
    if fill is not None:
        fill(content)
    need_sources(content["sets"], content["id"], str(profile))
    return _text(content)


def apply(
    params: Path, profile: Path, base: Path = BASE, fill: Callable[[CommentedMap], object] | None = None
) -> bool:
    """Write `rendered(profile, base, fill)` to `params`; return whether the file changed."""
    before = ""
    if params.is_file():
        read_yaml(params)  # a broken file is reported, not overwritten
        before = text_of(params)
    text = rendered(profile, base, fill)
    if text != before:
        save_text(params, text)
    return text != before


def keep_own(params: Path, base: Path = BASE) -> Path | None:
    """Copy params that neither the last commit nor a profile holds to the scratch folder; return where."""
    if not params.is_file():
        return None
    text = text_of(params)
    show = ["git", "-C", str(params.parent), "show", "HEAD:./params.yaml"]
    if text == subprocess.run(show, capture_output=True, encoding="utf-8", errors="replace").stdout:
        return None
    for profile in base.parent.glob("*.yaml"):
        with suppress(InputError):
            if text == rendered(profile, base):
                return None
    name = f"params-{hashlib.sha256(text.encode()).hexdigest()[:8]}.yaml"
    copy = params.parent / (os.environ.get("SSLOOD_SCRATCH") or "scratch") / name
    save_text(copy, text)
    return copy


@click.command(cls=Command)
@click.argument("profile", type=click.Path(path_type=Path))
def main(profile: Path) -> None:
    """Put PROFILE (a file of profiles/) into params.yaml."""
    params = Path("params.yaml")
    rendered(profile, BASE)  # a wrong profile changes nothing
    if (copy := keep_own(params, BASE)) is not None:
        click.echo(f"Your own params.yaml is kept; `cp {copy} params.yaml` brings it back.")
    changed = apply(params, profile, BASE)
    click.echo(f"params.yaml {'now holds' if changed else 'already held'} {profile.stem}.")
    click.echo(tidy(Path.cwd()))
    click.echo("Next: make repro")


if __name__ == "__main__":
    main()
