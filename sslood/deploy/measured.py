"""Settings of a detector for deployment: as measured by its stage, as in the params, or given one by one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from sslood.core.errors import InputError, known
from sslood.core.files import load_json
from sslood.core.settings import autos, check_limits, read_section, strict, type_of, typed
from sslood.deploy.calibrated import KINDS, NETWORK, STOCHASTIC

Given = dict[str, dict[str, Any]]  # detector -> setting -> value


@dataclass(frozen=True)
class Choice:
    """Settings of a detector; sources: setting -> in words, where its value comes from."""

    settings: Any
    sources: Mapping[str, str]

    def resolved(self, settings: Any, source: str) -> "Choice":
        """Return the choice with values from `source` in place of what was "auto"."""
        return Choice(settings, {**self.sources, **dict.fromkeys(autos(self.settings), source)})


def stage_of(detector: str) -> str:
    """Return the stage that measures a detector; InputError if the name is unknown."""
    known(detector, "detector", KINDS)
    if detector == "ssd":
        return "ssd"
    return "network" if detector in NETWORK else "stochastic" if detector in STOCHASTIC else "posthoc"


def parse_given(assignments: Iterable[str], detectors: Iterable[str]) -> Given:
    """Return detector -> setting -> value from texts like "knn.k=20".

    Raises InputError for another form, a detector that is not among `detectors`, an unknown setting, or a
    value of the wrong type or out of range.
    """
    given: Given = {name: {} for name in detectors}
    for text in assignments:
        left, equals, value = text.partition("=")
        detector, dot, setting = left.strip().partition(".")
        if not equals or not dot:
            raise InputError(f"--set {text}: write DETECTOR.SETTING=VALUE, e.g. knn.k=20")
        known(detector, "detector in --set:", given)
        kind = KINDS[known(detector, "detector", KINDS)].Settings
        names = [field.name for field in fields(kind)]
        if setting not in names:
            near = get_close_matches(setting, names, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            there = ", ".join(names) or "none"
            raise InputError(f"--set {text}: {detector} has no setting {setting!r}{hint}; known: {there}")
        where = f"--set {left.strip()}"
        given[detector][setting] = typed(type_of(kind, setting), yaml.safe_load(value), where)
        check_limits(kind, setting, given[detector][setting], where)
    return given


def measured(detector: str, model: str, seed: int, results: Path, given: Mapping[str, Any]) -> Choice:
    """Return the settings that a stage measured a detector of `model` with, but for those `given`.

    results: folder with the results of the stages. Raises InputError, saying what to run, if they lack it.
    """
    kind = KINDS[known(detector, "detector", KINDS)].Settings
    names = [field.name for field in fields(kind) if field.name not in given]
    entries = _entries(detector, names, model, seed, results) if names else {}
    stage = stage_of(detector)
    sources = {
        name: f"stage {stage}, from params"
        if entry["source"] == "params"
        else f"stage {stage}, {entry['source']}"
        for name, entry in entries.items()
    }
    values = {name: entry["value"] for name, entry in entries.items()}
    settings: Any = strict(kind, {**values, **given}, f"results of {detector}")
    if left := autos(settings):
        raise InputError(f"--set {detector}.{left[0]}=auto: choosing a setting needs --choose")
    return Choice(settings, {**sources, **dict.fromkeys(given, "given")})


def _entries(
    detector: str, names: list[str], model: str, seed: int, results: Path
) -> dict[str, Mapping[str, Any]]:
    """Return setting -> {"value": ..., "source": ...} from the results of the detector's stage."""
    stage = stage_of(detector)
    item = f"{model}-{seed}" if stage == "network" else f"{seed}"
    path = results / stage / f"{item}.json"
    remedy = (
        f"run `dvc repro {stage}@{item}` with params that list them, or choose settings now with --choose"
    )
    if not path.is_file():
        raise InputError(f"{path}: no such file, so {detector} of model {model!r} was not measured; {remedy}")
    content = load_json(path)
    if detector not in content.get("models", {}).get(model, {}):
        raise InputError(f"{path}: no results of {detector} for model {model!r}; {remedy}")
    chosen, entries = content.get("chosen", {}), {}
    for name in names:
        keys = [key for key in (f"{model}.{detector}.{name}", f"{detector}.{name}") if key in chosen]
        if not keys:
            raise InputError(f"{path}: lacks the setting {name} of {detector} for model {model!r}; {remedy}")
        entries[name] = chosen[keys[0]]
    return entries


def configured(detector: str, params: str, given: Mapping[str, Any]) -> Choice:
    """Return the settings in a detector's section of a params file, but for those `given`; "auto" among them.

    Raises InputError if the file lacks the section, or a value is wrong.
    """
    stage, kind = stage_of(detector), KINDS[detector].Settings
    section = stage if stage == "ssd" else f"{stage}.{detector}"
    names = [field.name for field in fields(kind) if field.name not in given]
    values = read_section(f"{params}:{section}") if names else {}
    settings: Any = strict(kind, {**values, **given}, f"{params}:{section}")
    return Choice(settings, dict.fromkeys(names, "params") | dict.fromkeys(given, "given"))
