"""What a study consists of: the file studies/NAME.yaml, read strictly."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from sslood.core.errors import InputError
from sslood.core.settings import Settings, at_least, check_name, checked, load_params, near
from tools.closure import ROOT

FOLDER = ROOT / "studies"
CORE = "core"  # in place of the names of parts
LEAST = 30.0  # seconds: what a stage needs to start, and the shortest ones to end


@dataclass(frozen=True)
class Part(Settings):
    """A part of a study: stages under settings of its own, or one command."""

    name: Annotated[str, "name of its folders, of letters, digits, _ and -"]
    title: Annotated[str, "heading of its table"] = ""
    profile: Annotated[
        str, "file of profiles/ that its settings start from; the study's if none is named"
    ] = ""
    settings: Annotated[dict, "dotted key: value; what differs from the profile"] = field(
        default_factory=dict
    )
    goals: Annotated[tuple[str, ...], "stages, or items of them, that are made with all they need"] = (
        "summarize",
    )
    needs: Annotated[tuple[str, ...], "image sets without which the part says nothing"] = ()
    prepare: Annotated[
        dict,
        "path in the part's folder: command that makes what stages read there, as {path}, if it is missing",
    ] = field(default_factory=dict)
    command: Annotated[str, "instead of stages: a command whose output is the result"] = ""
    tiny_command: Annotated[str, "the command that stands in for it with --tiny"] = ""
    device: Annotated[Literal["any", "cuda"], "what the part asks of the machine"] = "any"
    minutes: Annotated[float, at_least(0), "estimated or measured time on the study's `hardware`"] = 0.0
    least: Annotated[
        float, at_least(0), "seconds of its longest stage that has no checkpoint; 0 = the study's `least`"
    ] = 0.0

    def _check(self) -> None:
        check_name(self.name, "name")
        stages = [name for name in ("profile", "settings", "needs", "prepare") if getattr(self, name)]
        if self.command and stages:
            raise InputError(
                f"part {self.name!r} has a command, so it takes no {stages[0]!r}; take the key out"
            )
        if self.tiny_command and not self.command:
            raise InputError(
                f"part {self.name!r} has a tiny_command, but no command that it could stand in for"
            )
        if not self.goals:
            raise InputError(f"part {self.name!r}: goals must list at least one stage")
        for path, command in self.prepare.items():
            if not isinstance(command, str) or "{path}" not in command.split():
                raise InputError(
                    f"part {self.name!r}: prepare.{path} must be a command in which the word {{path}} "
                    f"stands for what it makes, found {command!r}"
                )
            if Path(path).is_absolute() or ".." in Path(path).parts:
                raise InputError(f"part {self.name!r}: prepare.{path} must lie in the part's folder")


@dataclass(frozen=True)
class Study(Settings):
    """A study: its parts, most useful first, and what holds for all of them."""

    title: Annotated[str, "heading of the results"]
    about: Annotated[str, "a paragraph below it, in Markdown"] = ""
    hardware: Annotated[str, "what `minutes` were estimated or measured on"] = ""
    profile: Annotated[str, "file of profiles/ of the parts that name none"] = "quickstart"
    settings: Annotated[dict, "dotted key: value; of every part, before its own"] = field(
        default_factory=dict
    )
    least: Annotated[float, at_least(1), "seconds of the longest stage that has no checkpoint"] = LEAST
    tiny: Annotated[dict, "dotted key: value; of every part, after its own, with --tiny"] = field(
        default_factory=dict
    )
    core: Annotated[tuple[str, ...], "parts that `core` stands for where parts are named"] = ()
    name: Annotated[str, "of its file"] = ""
    is_tiny: Annotated[bool, "run with --tiny, so that its numbers mean nothing"] = False
    parts: tuple[Part, ...] = ()

    @property
    def minutes(self) -> float:
        """The sum over the parts that say how long they take."""
        return sum(part.minutes for part in self.parts)


def study_names(folder: Path = FOLDER) -> list[str]:
    """Return the names of the studies that there are."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def read_study(name: str, folder: Path = FOLDER) -> Study:
    """Return the study in `folder`/NAME.yaml, or in the file NAME if it ends so.

    Raises InputError that names file, part and key for what is wrong.
    """
    path = Path(name) if name.endswith(".yaml") else folder / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"{name}: no such study; there are: {', '.join(study_names(folder)) or 'none'}")
    where = path.name
    name = check_name(path.stem, where)
    content = load_params(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: must hold keys and values")
    own = {key: value for key, value in content.items() if key != "parts"}
    if "name" in own:
        raise InputError(f"{where}: unknown key 'name'; the file's name is the study's")
    if "is_tiny" in own:
        raise InputError(f"{where}: unknown key 'is_tiny'; run the study with --tiny")
    study = checked(Study, own, where)
    parts = [_part(entry, place, where) for place, entry in enumerate(_listed(content, where))]
    names = [part.name for part in parts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{where}: two parts are called {twice[0]!r}; give one another name")
    if CORE in names:
        raise InputError(
            f"{where}: a part is called {CORE!r}, which stands for the list of that key; rename it"
        )
    if unknown := [name for name in study.core if name not in names]:
        raise InputError(f"{where}: core names {unknown[0]!r}, which is no part{near(unknown[0], names)}")
    return replace(study, name=name, parts=tuple(_filled(part, study) for part in parts))


def _filled(part: Part, study: Study) -> Part:
    """Return a part with the profile and `least` of its study, where it has none of its own."""
    profile = "" if part.command else part.profile or study.profile
    return replace(part, profile=profile, least=part.least or study.least)


def _listed(content: Mapping[str, Any], where: str) -> list[Any]:
    parts = content.get("parts")
    if not isinstance(parts, list) or not parts:
        raise InputError(f"{where}: parts must list at least one part")
    return parts


def _part(entry: Any, place: int, where: str) -> Part:
    if not isinstance(entry, Mapping):
        raise InputError(f"{where}: parts.{place} must hold keys and values, found {entry!r}")
    return checked(Part, entry, f"{where}: parts.{entry.get('name', place)}")


def chosen(study: Study, names: tuple[str, ...]) -> Study:
    """Return the study with the parts of these names alone, all if none is named; CORE stands for several."""
    known = [*(part.name for part in study.parts), *([CORE] if study.core else [])]
    for name in names:
        if name not in known:
            raise InputError(f"{name}: no such part of {study.name}; there are: {', '.join(known)}")
    wanted = {*names, *(study.core if CORE in names else ())}
    return replace(study, parts=tuple(part for part in study.parts if not names or part.name in wanted))


def tiny(study: Study) -> Study:
    """Return a study of the same parts in the same order that takes minutes on any device; its numbers mean
    nothing. InputError if its file does not say how.
    """
    if not study.tiny:
        raise InputError(
            f"{study.name}.yaml: has no key 'tiny'; list there the settings that make every part small, such "
            "as data.limit and train.epochs"
        )
    parts = tuple(_tiny(part, study.tiny) for part in study.parts)
    return replace(study, least=LEAST, parts=parts, is_tiny=True)


def _tiny(part: Part, settings: Mapping[str, Any]) -> Part:
    small = replace(part, minutes=0.0, least=LEAST)
    if part.command:
        return replace(small, command=part.tiny_command, device="any") if part.tiny_command else small
    return replace(small, settings={**part.settings, **settings}, device="any")
