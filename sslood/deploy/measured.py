"""Settings of a detector for deployment: as measured by its stage, as in the params, or given one by one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sslood.core.errors import InputError, known
from sslood.core.files import load_json
from sslood.core.settings import autos, check_limits, near, parse_value, read_section, strict, type_of, typed
from sslood.deploy.calibrated import DETECTORS, KINDS, NETWORK, STOCHASTIC
from sslood.ood.kit.combining import Combination
from sslood.ood.kit.members import CombinationSettings, read_combinations

Given = dict[str, dict[str, Any]]  # detector -> setting -> value


@dataclass(frozen=True)
class Choice:
    """Settings of a detector; sources: setting -> in words, where its value comes from."""

    settings: Any
    sources: Mapping[str, str]

    def resolved(self, settings: Any, source: str) -> "Choice":
        """Return the choice with values from `source` in place of what was "auto"."""
        return Choice(settings, {**self.sources, **dict.fromkeys(autos(self.settings), source)})


@dataclass(frozen=True)
class Members:
    """The detectors that are deployed, and how several give one score.

    source: where that comes from, in words, if a row of the tables was named: "auto".
    """

    names: Sequence[str]
    by: Combination | None = None
    source: str = ""


def measured_members(name: str, model: str, seed: int, results: Path) -> Members:
    """Return the members of a combination that the stage posthoc measured, and how it combined them.

    Raises InputError for an unknown name, if the results lack the row (it says what to run), or if the model
    cannot have it (it says why).
    """
    path = results / "posthoc" / f"{seed}.json"
    content = load_json(path) if path.is_file() else {}
    rows = {row for rows in content.get("models", {}).values() for row in rows}
    rows |= {row["detector"] for row in content.get("left_out", [])} | {"auto"}
    if name not in rows:
        raise InputError(f"unknown detector {name!r}{near(name, sorted({*KINDS, *rows} - {''}))}")
    entries = _entries(name, "posthoc", ["members", "by"], model, seed, results)
    settings = strict(CombinationSettings, {key: one["value"] for key, one in entries.items()}, name)
    by = settings.by if len(settings.members) > 1 else None
    return Members(settings.members, by, f"stage posthoc, {entries['members']['source']}")


def configured_members(name: str, params: str) -> Members:
    """Return the members of a combination in a params file; InputError if the stage has to choose them."""
    there = read_combinations(f"{params}:combinations", list(DETECTORS), DETECTORS)
    if name not in there:
        raise InputError(f"unknown detector {name!r}{near(name, [*KINDS, *there])}")
    if there[name].members == "auto":
        raise InputError(
            f"--choose: the stage posthoc chooses the members of {name!r}; omit --choose, or name detectors"
        )
    return Members(there[name].members, there[name].by, "params")


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
        if setting in given[detector]:
            raise InputError(f"{where}: given twice; omit one")
        given[detector][setting] = typed(type_of(kind, setting), parse_value(value, where), where)
        check_limits(kind, setting, given[detector][setting], where)
    return given


def measured(detector: str, model: str, seed: int, results: Path, given: Mapping[str, Any]) -> Choice:
    """Return the settings that a stage measured a detector of `model` with, but for those `given`.

    results: folder with the results of the stages. Raises InputError, saying what to run, if they lack it.
    """
    kind = KINDS[known(detector, "detector", KINDS)].Settings
    names = [field.name for field in fields(kind) if field.name not in given]
    stage = stage_of(detector)
    entries = _entries(detector, stage, names, model, seed, results) if names else {}
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
    detector: str, stage: str, names: list[str], model: str, seed: int, results: Path
) -> dict[str, Mapping[str, Any]]:
    """Return setting -> {"value": ..., "source": ...} from the results of the detector's stage."""
    item = f"{model}-{seed}" if stage == "network" else f"{seed}"
    path = results / stage / f"{item}.json"
    remedy = (
        f"run `dvc repro {stage}@{item}` with params that list them, or choose settings now with --choose"
    )
    if not path.is_file():
        raise InputError(f"{path}: no such file, so {detector} of model {model!r} was not measured; {remedy}")
    content = load_json(path)
    if detector not in content.get("models", {}).get(model, {}):
        for row in content.get("left_out", []):
            if row["model"] == model and row["detector"] in (detector, ""):
                raise InputError(f"{detector} is left out for model {model!r}: {row['reason']}; name others")
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
