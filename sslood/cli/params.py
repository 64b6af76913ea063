"""The params as a whole, checked before anything runs: every key, value and name that refers to another.

There is no second list of what is allowed. dvc.yaml says which script reads which section, and the options of
the scripts, most of them made from settings classes, say what may stand there.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import click
import yaml

from sslood.cli.crossed import check_training, mismatches, placed
from sslood.cli.outline import outlines
from sslood.cli.sections import FROM, SectionOption, fitting, groups_of, named_at, options_of
from sslood.core.errors import InputError
from sslood.core.renamed import renamed
from sslood.core.settings import check_name, checked, load_params, near

REFERENCE = re.compile(r"\$\{([\w.]+)\}")  # DVC's
PARAMS = "params.yaml:"  # as commands say it
Check = Callable[[], object]
Given = dict[str, tuple[str, Any]]  # option -> FILE:KEY and value


def check_params(path: Path) -> None:
    """Raise InputError, with a sentence for each thing that is wrong, unless the params suit the pipeline.

    path: the params; dvc.yaml lies beside them. Takes a fraction of a second.
    """
    params = load_params(path)
    if not isinstance(params, Mapping):
        raise InputError(f"{path}: must hold keys and values")
    pipeline = yaml.safe_load((path.parent / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    stages = [Stage(definition, params, str(path)) for definition in pipeline.values()]
    with outlines():
        for checks in (_keys(stages, params, str(path)), _instances(stages), _names(stages)):
            if found := dict.fromkeys(sentence for check in checks for sentence in _failed(check)):
                raise InputError("\n  ".join(found))  # lines that a command prints as lines
    if found := dict.fromkeys(mismatches(params, str(path))):
        raise InputError("\n  ".join(found))


def _failed(check: Check) -> Iterator[str]:
    try:
        check()
    except InputError as error:
        yield str(error)


class Stage:
    """A stage of dvc.yaml: the lists of the params that make its instances, and the sections it reads."""

    def __init__(self, definition: Mapping[str, Any], params: Mapping[str, Any], file: str):
        self.params, self.file = params, file
        self.body: Mapping[str, Any] = definition.get("do", definition)
        lists = {"set": definition["foreach"]} if "foreach" in definition else definition.get("matrix", {})
        self.items = {name: text.strip("${}") for name, text in lists.items()}  # item -> key of the params
        words = [word.strip('"') for word in self.body["cmd"].split()]
        self.module, after = words[2], list(zip(words, words[1:], strict=False))
        self.options = {word.removeprefix("--"): value for word, value in after if word.startswith("--")}
        self.sections = [where.partition(":")[2] for word, where in after if word == FROM]

    def references(self) -> set[str]:
        """Return the keys of the params that the stage refers to, in full."""
        tracked = {re.sub(r"\.?\$\{.*", "", key) for key in self.body.get("params", [])}
        used = {key for key in REFERENCE.findall(str(self.body)) if key.split(".")[0] not in ("item", "key")}
        return tracked | used | set(self.items.values())

    def mappings(self) -> set[str]:
        """Return the keys of the params below which the stage reads what an instance names."""
        return {key.partition(".${")[0] for key in self.body.get("params", []) if ".${" in key}

    def value(self, key: str) -> Any:
        """Return the value of a key of the params; InputError if it is missing."""
        value: Any = self.params
        above = self.file
        for part in key.split("."):
            if not isinstance(value, Mapping):
                raise InputError(f"{above}: must hold keys and values, found {value!r}")
            if part not in value:
                raise InputError(f"{self.file}: missing key {key!r}")
            value, above = value[part], f"{above}{'.' if ':' in above else ':'}{part}"
        return value

    def instances(self) -> list[dict[str, Any]]:
        """Return {item: value} of each instance, {} if there is one; InputError for a wrong list."""
        lists = [_items(self.value(key), f"{self.file}:{key}") for key in self.items.values()]
        return [dict(zip(self.items, values, strict=True)) for values in product(*lists)]

    def check(self, item: Mapping[str, Any]) -> None:
        """Raise InputError for what does not suit the script: an option, settings, a section it reads."""
        options = options_of(import_module(self.module).main)
        given: Given = {name: (f"{self.file}:{self.items[name]}", value) for name, value in item.items()}
        for key in self.sections:
            for place, name, value in named_at(f"{self.file}:{key}", self.value(key)):
                given[name] = place, value
        given = {name: (place, fitting(options, place, name, it)) for name, (place, it) in given.items()}
        self._check_complete(options, given)
        if item.keys() != self.items.keys():
            return  # nothing runs, so the rest may wait
        values = {str(options[name].name): value for name, (_, value) in given.items()}
        places = {name: self._place(w, given) for name, w in self.options.items() if w.startswith(PARAMS)}
        sections = {name: option for name, option in options.items() if isinstance(option, SectionOption)}
        if not any(option.checks_settings for option in sections.values()):
            self._check_settings(options, given)
        for name in sections.keys() & places.keys():
            sections[name].check(places[name], values)
        if "recipe" in sections.keys() & places.keys():
            self._check_together(given, places, sections)

    def _check_together(
        self, given: Given, places: Mapping[str, str], sections: Mapping[str, SectionOption]
    ) -> None:
        keys = {name: places[name].removeprefix(f"{self.file}:") for name in sections if name in places}
        found = {name: self.value(key) for name, key in keys.items()}
        others = (name for name in found if name != "recipe" and isinstance(found[name], Mapping))
        own = {key: value for name in others for key, value in placed(places[name], found[name]).items()}
        size = f"{self.file}:data.size", self.value("data.size")
        check_training(given, placed(places["recipe"], found["recipe"]), own, size)

    def _check_complete(self, options: Mapping[str, click.Option], given: Given) -> None:
        for name, option in options.items():
            if option.required and name not in {*given, *self.options, *self.items}:
                kin = next((group for group in groups_of(options).values() if name in group), ())
                beside = [given[other][0].removesuffix(f".{other}") for other in kin if other in given]
                where = (beside or [" or ".join(f"{self.file}:{key}" for key in self.sections)])[0]
                raise InputError(f"{where}: missing key {name!r}")

    def _check_settings(self, options: Mapping[str, click.Option], given: Given) -> None:
        for (kind, prefix), names in groups_of(options).items():
            if found := {name.removeprefix(prefix): given[name][1] for name in names if name in given}:
                last = next(iter(found))
                checked(kind, found, given[prefix + last][0].removesuffix(f".{last}"))

    def _place(self, where: str, given: Given) -> str:
        """Return FILE:KEY with its {name} filled in; InputError if the section lacks the name."""
        key = where.partition(":")[2]
        if hole := re.search(r"\.\{(\w+)\}$", key):
            origin, name = given[hole[1]]
            key = key[: hole.start()]
            section = self.value(key)
            if not isinstance(section, Mapping):
                raise InputError(f"{self.file}:{key}: must hold keys and values, found {section!r}")
            if name not in section:
                raise InputError(f"{origin}: {name!r} is not among `{key}`{near(name, section)}")
            key = f"{key}.{name}"
        return f"{self.file}:{key}"

    def files(self, kind: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield (file, template, item) of the data that all instances have as "outs" or "deps"."""
        for item in self.instances():
            for template in self.body.get(kind, []):
                if isinstance(template, str) and template.startswith("data/"):
                    parts = REFERENCE.split(template)  # every second is a reference
                    parts[1::2] = [self.filled(key, item) for key in parts[1::2]]
                    yield "".join(parts), template, item

    def filled(self, key: str, item: Mapping[str, Any]) -> str:
        """Return what `${key}` stands for in a template."""
        return str(item.get("set" if key == "key" else key.removeprefix("item."), self.params.get(key)))


def _keys(stages: list[Stage], params: Mapping[str, Any], file: str) -> Iterator[Check]:
    """Yield checks of the keys at the top, of the sections whose keys dvc.yaml names, and of all lists."""
    known = {key for stage in stages for key in stage.references()}
    yield from _known(params, file, "", sorted({key.split(".")[0] for key in known}))
    read = {key for stage in stages for key in stage.sections}
    for section in sorted({key.split(".")[0] for key in known if "." in key} - read):
        names = sorted(key.partition(".")[2] for key in known if key.startswith(f"{section}."))
        yield from _known(params.get(section), file, section, names)
    for key in sorted(known):
        yield partial(stages[0].value, key)
    for key in sorted({key for stage in stages for key in stage.mappings()}):
        yield partial(_is_mapping, stages[0], key)
    deps = " ".join(str(stage.body.get("deps", "")) for stage in stages)
    for key in sorted({key for key in REFERENCE.findall(deps) if key in params and key != "key"}):
        yield partial(_is_name, stages[0], key)
    for stage in stages:
        yield stage.instances


def _is_mapping(stage: Stage, key: str) -> None:
    if not isinstance(value := stage.value(key), Mapping):
        raise InputError(f"{stage.file}:{key}: must hold keys and values, found {value!r}")


def _is_name(stage: Stage, key: str) -> None:
    """Raise InputError unless a key whose value is part of a file's name, such as `mixing`, holds a name."""
    value, where = stage.value(key), f"{stage.file}:{key}"
    if not isinstance(value, str):
        raise InputError(f"{where}: must be a name, found {value!r}")
    check_name(value, where)


def _known(content: Any, file: str, section: str, names: list[str]) -> Iterator[Check]:
    def check(key: object) -> None:
        full = f"{section}.{key}".lstrip(".")
        if now := renamed(full):
            raise InputError(f"{file}: {full!r} is gone: {now}")
        raise InputError(f"{file}: unknown key {full!r}{near(key, names)}")

    for key in content if isinstance(content, Mapping) else ():
        if key not in names:
            yield partial(check, key)


def _items(values: Any, where: str) -> list[Any]:
    """Return what DVC makes stages of: numbers or plain names, each once; InputError for others."""
    if not isinstance(values, list | Mapping):
        raise InputError(f"{where}: must be a list, found {values!r}")
    for value in values:
        if isinstance(value, str):
            check_name(value, where)
        elif isinstance(values, Mapping):
            kinds = {bool: "true or false", type(None): "nothing", date: "a date"}
            kind = kinds.get(type(value), "a number")
            raise InputError(f"{where}: the name {value} is read as {kind}; quote it, or take another")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{where}: must list names or numbers, found {value!r}")
    names = list(map(str, values))
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{where}: {twice[0]!r} stands twice; take one out")
    return list(values)


def _instances(stages: list[Stage]) -> Iterator[Check]:
    """Yield the check of each instance, and of a stage that has none where its sections hold something."""
    for stage in stages:
        if items := stage.instances() or [{}] * all(map(stage.value, stage.sections)):
            yield from (partial(stage.check, item) for item in items)


def _names(stages: list[Stage]) -> Iterator[Check]:
    """Yield checks that some stage makes what another one needs, and that no two make the same."""
    outs = [Path(file) for stage in stages for file, *_ in stage.files("outs")]
    made = set(outs)
    for twice in sorted({file for file in outs if outs.count(file) > 1}):
        yield partial(_twice, stages[0].file, twice)
    made |= {above for file in made for above in file.parents}
    for stage in stages:
        for file, template, item in stage.files("deps"):
            if "${" in template and Path(file) not in made:
                yield partial(_lacks, stage, template, item, made)


def _twice(params: str, file: Path) -> None:
    """Raise InputError for a file that two stages would write."""
    raise InputError(f"{params}: two stages make {file}; give one of them, listed under `runs`, another name")


def _lacks(stage: Stage, template: str, item: Mapping[str, Any], made: Iterable[Path]) -> None:
    """Raise InputError that names the key of the params for whose value no stage makes a file."""
    parts = REFERENCE.split(template)
    key = parts[1]
    value, place = stage.filled(key, item), stage.items.get(key.removeprefix("item."), key)
    filled = [re.escape(stage.filled(part, item)) if part != key else "([^/]+)" for part in parts[1::2]]
    parts = list(map(re.escape, parts))
    parts[1::2] = filled
    found = (re.fullmatch("".join(parts), str(file)) for file in made)
    names = sorted(match[1] for match in found if match)
    if not names:
        file = REFERENCE.sub(lambda hole: stage.filled(hole[1], item), template)
        raise InputError(
            f"{stage.file}: no stage makes {file}, which {stage.module} reads; list it under `runs`"
        )
    raise InputError(f"{stage.file}:{place}: no stage makes {value!r}{near(value, names)}")
