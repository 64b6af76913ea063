"""The folder that a part runs in: params of its own, and the code as it was when the call began.

FOLDER/code/       copy of the code, taken at the start of each call: what is edited meanwhile changes nothing
FOLDER/made/       outputs of stages by the digest of what they come from, shared by the parts (links)
FOLDER/PART/       params.yaml, data/, metrics/, report/, scratch/ (checkpoints and logs), links to the code
"""

import shutil
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from sslood.cli.params import check_params
from sslood.core.errors import InputError
from sslood.core.files import save_text
from sslood.core.settings import load_params, near
from studies.plan import Part, Study
from tools.closure import ROOT
from tools.graph import cells
from tools.switch import BASE, WHOLE, rendered

RUN = ("dvc.yaml", "sslood", "stages", "architectures")  # what stages need
CODE = (*RUN, "profiles")  # what results depend on
COMMANDS = (*CODE, "benchmarks", "tools", "studies")  # and those of a part that is a command


def copy_code(folder: Path, root: Path = ROOT) -> None:
    """Make `folder`/code a copy of the code as it is now."""
    place, fresh = folder / "code", folder / "code.part"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name in CODE:
        if (root / name).is_dir():
            shutil.copytree(root / name, fresh / name)  # with times, so that compiled files stay valid
        else:
            shutil.copy2(root / name, fresh / name)
    shutil.rmtree(place, ignore_errors=True)
    fresh.rename(place)


def lay_out(folder: Path, code: Path, text: str) -> None:
    """Make a part's folder: links to the code, and params.yaml with this text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in RUN:
        link = folder / name
        if not link.is_symlink() or link.resolve() != (code / name).resolve():
            link.unlink(missing_ok=True)
            link.symlink_to((code / name).resolve())
    save_text(folder / "params.yaml", text)


def params_text(study: Study, part: Part, without: Mapping[str, str] | None = None, root: Path = ROOT) -> str:
    """Return the text of a part's params.yaml: profile, the study's settings, the part's.

    without: sets that cannot be had. Raises InputError that names the key for a setting that does not fit.
    """
    where = f"{study.name}.yaml: parts.{part.name}"

    def fill(params: CommentedMap) -> None:
        for source, settings in ((f"{study.name}.yaml", study.settings), (where, part.settings)):
            for key, value in settings.items():
                put(params, str(key), value, f"{source}.settings")
        for name in part.needs:
            if name not in params["sets"]:
                raise InputError(
                    f"{where}.needs: {name!r} is not among the part's sets{near(name, params['sets'])}"
                )
        for name in without or {}:
            del params["sets"][name]
            for steps in params.get("ensemble_steps", {}).values():
                steps.pop(name, None)

    return rendered(root / "profiles" / f"{part.profile}.yaml", root / BASE, fill)


def put(params: CommentedMap, key: str, value: Any, where: str) -> None:
    """Set the value at a dotted key, in place; null takes it out.

    A key must be there, unless it is one of the names that a profile chooses itself, or lies below such a
    name. A mapping takes the place of the old one. Raises InputError that names the key.
    """
    words = key.split(".")
    scope: Any = params
    for depth, word in enumerate(words):
        above = ".".join(words[:depth])
        if not isinstance(scope, dict):
            raise InputError(f"{where}: {above!r} holds no keys, so there is no {key!r}")
        is_last = depth == len(words) - 1
        is_free = is_last and any(WHOLE.fullmatch(".".join(words[:end])) for end in range(1, depth + 1))
        if word not in scope and not (is_free and value is not None):
            raise InputError(f"{where}: there is no key {key!r}{near(word, map(str, scope))}")
        if is_last and value is None:
            del scope[word]
        elif is_last:
            scope[word] = deepcopy(value)
        else:
            scope = scope[word]


def check_parts(study: Study, folder: Path) -> None:
    """Check the params of every part as `make repro` would, before anything runs.

    Raises InputError, with the part's name before each sentence.
    """
    for part in study.parts:
        if part.command:
            continue
        place = folder / "check"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / "dvc.yaml", place / "dvc.yaml")
        try:
            save_text(place / "params.yaml", params_text(study, part))
            check_params(place / "params.yaml")
            _check_goals(part, *(load_params(place / file) for file in ("dvc.yaml", "params.yaml")))
        except InputError as error:
            said = str(error).replace(f"{place}/", "").replace(f"{ROOT}/", "")
            where = f"{study.name}.yaml: parts.{part.name}"
            raise InputError(said if where in said else f"{where}: {said}") from None
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _check_goals(part: Part, pipeline: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Raise InputError for a goal that is no stage of a part's graph, nor an item of one."""
    items = [cell.name for cell in cells(pipeline, params)]
    known = dict.fromkeys([*pipeline["stages"], *items])
    for goal in part.goals:
        if goal not in known:
            names = items if "@" in goal else pipeline["stages"]
            raise InputError(f"goals: no such stage {goal!r}{near(goal, names)}")
