"""Put a profile's values into params.yaml, between the quickstart's comments and in its order.

    make profile P=cifar10        (or: python -m tools.switch profiles/cifar10.yaml)

A profile holds only what differs from the quickstart, so the quickstart's values go in first. What
no stage of the new graph declares is then tidied away; going back is served from DVC's cache.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from io import StringIO
from pathlib import Path

import click
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from sslood.cli.command import StageCommand
from sslood.core.errors import InputError
from sslood.core.files import save_text
from sslood.data.sets.source import source_named, with_sources
from tools.tidy import tidy

BASE = Path("profiles/quickstart.yaml")
_EMPTY = "empty-list"
# mappings whose keys a profile chooses itself (names of sets, objectives and their constants, models from
# outside, detectors that only some models have, the parts of an augmentation): it replaces them whole
WHOLE = re.compile(r"sets|objectives|models|stochastic|augment\.\w+")


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


def read_yaml(path: Path) -> CommentedMap:
    """Return the mapping in a YAML file; InputError if it is missing, broken or no mapping."""
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml"))) or "none"
        raise InputError(f"{path}: no such profile; there are: {names}")
    try:
        content = _yaml().load(path)
    except YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: must hold keys and values")
    return content


def bare(value):
    """Return a copy of what was read without its comments; {a: b} and [a, b] stay on one line."""
    if not isinstance(value, CommentedMap | CommentedSeq):
        return value
    if isinstance(value, CommentedMap):
        copy = CommentedMap((key, bare(item)) for key, item in value.items())
    else:
        copy = CommentedSeq(bare(item) for item in value)
    if value.fa.flow_style():
        copy.fa.set_flow_style()
    return copy


def merge(params: CommentedMap, changes: Mapping, source: str, at: str = "") -> None:
    """Put `changes` into `params` in place; InputError for a key that `params` does not have.

    Comments and order of `params` stay. Lists, and the mappings that `WHOLE` matches, are replaced whole.
    """
    for key, value in changes.items():
        where = f"{at}{key}"
        if key not in params:
            near = get_close_matches(str(key), map(str, params), n=1)
            hint = f" (did you mean {at + near[0]!r}?)" if near else ""
            raise InputError(f"{source}: key {where!r} is not in params.yaml{hint}")
        if isinstance(value, Mapping) != isinstance(params[key], Mapping):
            raise InputError(
                f"{source}: {where!r} must be a {'mapping' if isinstance(params[key], Mapping) else 'value'}"
            )
        if isinstance(value, Mapping) and not WHOLE.fullmatch(where):
            merge(params[key], value, source, f"{where}.")
        elif params[key] != value:
            params[key] = _in_place_of(params[key], value)


def need_sources(sets: Mapping, id_name: str, where: str) -> None:
    """Raise InputError, saying what to write, for entries of `sets` whose source is missing or unknown."""
    now = with_sources(sets, id_name)
    old = [name for name, entry in sets.items() if "source" not in (entry or {})]
    if old:
        texts = [f"{name}: {{{', '.join(f'{k}: {v}' for k, v in now[name].items())}}}" for name in old]
        raise InputError(f"{where}: an entry of `sets` names its source now; write `{'`, `'.join(texts)}`")
    for name, entry in sets.items():
        source_named(str(entry["source"]), f"{where}: sets.{name}")


def _in_place_of(old, new):
    """Return `new` in the style of the list `old`, with what stands behind its last item (the next comment).

    Such a comment would break a list on one line. An empty list holds a mark instead, since ruamel writes
    what follows `[]` on its line; see `_text`.
    """
    if isinstance(old, CommentedSeq) and isinstance(new, CommentedSeq) and not old.fa.flow_style():
        new = CommentedSeq(new or [_EMPTY])
        if len(old) - 1 in old.ca.items:
            new.ca.items[len(new) - 1] = old.ca.items[len(old) - 1]
    return new


def _text(content: CommentedMap) -> str:
    text = StringIO()
    _yaml().dump(content, text)
    return re.sub(rf"^( *\S+:)( *#.*)?\n *- {_EMPTY}$", _emptied, text.getvalue(), flags=re.MULTILINE)


def _emptied(match: re.Match) -> str:
    comment = match[2] or ""  # stays in its column if there is room for the brackets
    return f"{match[1]} []" + (comment[3:] if comment.startswith("    ") else comment)


def apply(params: Path, profile: Path, base: Path = BASE) -> bool:
    """Write `base` with the values of `profile` to `params`; return whether anything changed."""
    before = ""
    if params.is_file():
        read_yaml(params)  # a broken one is named, not overwritten
        before = params.read_text(encoding="utf-8")
    content = read_yaml(base)
    if profile.resolve() != base.resolve():
        merge(content, bare(read_yaml(profile)), str(profile))  # its comments explain the profile
    need_sources(content["sets"], content["id"], str(profile))
    text = _text(content)
    if text != before:
        save_text(params, text)
    return text != before


@click.command(cls=StageCommand)
@click.argument("profile", type=click.Path(path_type=Path))
def main(profile: Path) -> None:
    """Put PROFILE (a file of profiles/) into params.yaml."""
    changed = apply(Path("params.yaml"), profile)
    click.echo(f"params.yaml {'now holds' if changed else 'already held'} {profile.stem}.")
    click.echo(tidy(Path.cwd()))
    click.echo("Next: make repro")


if __name__ == "__main__":
    main()
