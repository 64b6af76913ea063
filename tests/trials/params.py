"""Mutated params: wrong types, keys, names and references anywhere in the file; files that are no params."""

import copy
import random
import shlex
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from sslood.core.closure import TOP
from tests.trials.kit import Trial, Verdict, call, refused

TITLE = "mutated `params.yaml`"
COUNT = 300
FREE = {"sets", "backbones", "objectives"}  # sections whose keys are names that one chooses
UNLIMITED = {"m_in", "m_out", "seed", "seeds"}  # may be any number
OPTIONAL = {
    "by",
    "derive",
    "raster",
    "heldout",
    "shares",
    "optimiser",
    "lr",
    "weight_decay",
    "precision",
}  # in some section
NAMES = ["2024", "010", "1e3", "null", "2024-01-01", "true", "a b", "a/b", "../up", "$(touch x)", "--x"]
FILES = {
    "a tab": "id:\tdigits\n\tx: 1\n",
    "an open bracket": "id: [\n",
    "a list": "- id\n",
    "nothing": "",
    "a text": "digits\n",
    "one key twice": "id: digits\nid: digits\n",
    "an alias to nothing": "id: *x\n",
    "a tag": "id: !!python/object:os.system x\n",
}


def trials(folder: Path) -> Iterator[Trial]:
    """Yield 300 mutations of the quickstart's params, the same every time, each with what must be named."""
    for file in (TOP / "stages").glob("[!_]*.py"):
        import_module(f"stages.{file.stem}")  # once for all trials
    text = (TOP / "profiles/quickstart.yaml").read_text(encoding="utf-8")
    found = list(_mutations(yaml.safe_load(text)))
    rest = random.Random(0).sample(found, COUNT - len(NAMES) - len(FILES))
    for name, content, word in [*_named(yaml.safe_load(text)), *rest]:
        yield Trial(name, lambda content=content, word=word: _try(folder, yaml.safe_dump(content), word))
    for name, broken in FILES.items():
        yield Trial(f"a file with {name}", lambda broken=broken: _try(folder, broken, "params.yaml"))


def _try(folder: Path, text: str, word: str) -> Verdict:
    (folder / "params.yaml").write_text(text.replace("? __name__\n", ""), encoding="utf-8")
    shutil.copy(TOP / "dvc.yaml", folder)
    return refused(call(_check, cwd=folder), word)


def _check() -> str:
    """Say what `make repro` says of the params in this folder before it computes anything."""
    try:
        command = import_module("tools.ready").main
    except ImportError:  # an earlier version: what DVC says, and the options of the scripts
        return _check_options()
    command.main(["--params"])
    return ""


def _check_options() -> str:
    import click
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    Path(".dvc").mkdir(exist_ok=True)
    Path(".dvc/config").write_text(
        "[core]\n  no_scm = true\n[parsing]\n  bool = boolean_optional\n  list = append\n"
    )
    try:
        for stage in Repo(".").index.stages:
            words = shlex.split(str(stage.cmd))
            import_module(words[2]).main.make_context(words[2], words[3:])
    except (DvcException, click.ClickException, ValueError) as error:
        raise SystemExit(f"Error: {error}") from None
    return ""


def _named(params: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield params with names that the pipeline cannot use, in YAML's own spelling."""
    for name in NAMES:
        changed = copy.deepcopy(params)
        changed["sets"][yaml.safe_load(name)] = {"role": "far", "source": "blobs"}
        yield f"a set called {name}", changed, "sets"


def _places(content: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in content.items() if isinstance(content, dict) else ():
        yield (*above, key)
        yield from _places(value, (*above, key))


def _mutations(params: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield (what was done, params, the word that a message must hold) for each place and each fault."""
    for place in _places(params):
        value, key = params, str(place[-1])
        for part in place:
            value = value[part]
        for what, new, word in [*_values(value, key), *_keys(key, place)]:
            changed = copy.deepcopy(params)
            section = changed
            for part in place[:-1]:
                section = section[part]
            if what in ("misspelt", "missing"):
                old = section.pop(place[-1])
                section |= {new: old} if what == "misspelt" else {}
            else:
                section[place[-1]] = new
            yield f"{'.'.join(map(str, place))} {what}", changed, word


def _keys(key: str, place: tuple[Any, ...]) -> Iterator[tuple[str, Any, str]]:
    if len(place) == 2 and place[0] in FREE:
        if place[0] != "sets" or key in ("digits", "corruptions"):  # what `id` and `auxiliary` name
            yield "misspelt", f"{key}x", key
        return
    yield "misspelt", key[1:2] + key[:1] + key[2:] + "x", key[2:] or key
    if key not in OPTIONAL and place[0] != "augment":
        yield "missing", None, key


def _values(value: Any, key: str) -> Iterator[tuple[str, Any, str]]:
    """Yield (what, a value of another kind, what must be named) for a value of the params."""
    if isinstance(value, dict):
        yield "as a number", 3, key
        yield "as a list", ["a"], key
        return
    if key != "derive":
        yield "as nothing", None, key
    yield "as a mapping", {"a": 1}, key
    if isinstance(value, list):
        yield "as a text", "abc", key
        yield "with a mapping", [*value, {"a": 1}], key
        yield "with nothing", [*value, None], key
        return
    yield "as a list", [value], key
    if isinstance(value, bool):
        yield "as yes", "yes", key
        yield "as 0", 0, key
    elif isinstance(value, int | float):
        yield "as a text", "abc", key
        yield "as true", True, key
        yield "as nan", float("nan"), key
        if key not in UNLIMITED:
            yield "as too little", -1e9 if isinstance(value, float) else -(10**9), key
    else:
        yield "as another name", f"{value}x", key
        if value != "auto":
            yield "as a number", 7, key
