"""Calibrated detectors as arrays and JSON values, which are checked against themselves when they are read.

A detector file decides which images are not to be trusted, so what it says must agree with what it holds: its
checksum, the type and shape of every array, the threshold with the scores that it was computed from.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError, known
from sslood.core.files import load_tensors
from sslood.core.names import shown
from sslood.core.settings import strict
from sslood.deploy.by_class import ByClass
from sslood.deploy.calibrated import KEPT, Calibrated, Origin, make_detector
from sslood.deploy.catches import Catch
from sslood.deploy.inputs import AnyDetector
from sslood.ood.kit.combining import Combination
from sslood.ood.kit.network_detector import NetworkDetector
from sslood.ood.kit.outputs import chunks
from sslood.ood.measures.conformal import Threshold, conformal_threshold

VERSION = 3  # of what `pack` writes; raised when detectors keep other states
PREDICTED = "by_class.predicted"  # the array with the class of each calibration image, if these decide
WRITERS = "`sslood fit` or `sslood deploy`"
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Entry:
    """One detector: what `make_detector` and `restore` need beside its arrays, and its origin."""

    name: str
    settings: dict
    sources: dict
    fitted_on: str
    seed: int = 0
    widths: dict | None = None
    chosen: dict | None = None


@dataclass(frozen=True)
class _Content:
    """The JSON values of `pack`; arrays: name -> type and shape."""

    detectors: tuple[dict, ...]
    arrays: dict
    threshold: dict
    calibrated_on: str
    catches: tuple[dict, ...]
    unmeasured: str
    combination: Combination | None
    by_class: dict | None = None


@dataclass(frozen=True)
class _ByClass:
    """The JSON values of thresholds by class."""

    names: tuple[str, ...]
    thresholds: tuple[dict, ...]


def pack(calibrated: Calibrated) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (arrays, JSON values) from which `unpack` makes the same detectors again."""
    arrays, entries = {"calibration": calibrated.calibration}, []
    for name, detector in calibrated.detectors.items():
        arrays |= {f"detector.{name}.{key}": array for key, array in (detector.state or {}).items()}
        if calibrated.combination is not None:
            arrays[f"reference.{name}"] = calibrated.references[name]
        origin = asdict(calibrated.origins.get(name, Origin()))
        entries.append({"name": name, "settings": asdict(detector.settings), **origin, **_learned(detector)})
    own: dict[str, Any] = {}  # parts that older files lack
    if calibrated.by_class is not None:
        arrays[PREDICTED] = calibrated.by_class.predicted.astype(np.float64)
        thresholds = [asdict(threshold) for threshold in calibrated.by_class.thresholds]
        own["by_class"] = {"names": list(calibrated.by_class.names), "thresholds": thresholds}
    return arrays, {
        **own,
        "version": VERSION,
        "detectors": entries,
        "arrays": {name: _form(array) for name, array in arrays.items()},
        "combination": calibrated.combination,
        "threshold": asdict(calibrated.threshold),
        "calibrated_on": calibrated.calibrated_on,
        "catches": [asdict(catch) for catch in calibrated.catches],
        "unmeasured": calibrated.unmeasured,
    }


def _form(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _learned(detector: AnyDetector) -> dict[str, Any]:
    if isinstance(detector, NetworkDetector):
        return {"chosen": detector.chosen}
    return {"seed": detector.seed, "widths": detector.widths}


def checksum(arrays: Arrays, content: Mapping[str, Any]) -> str:
    """Return the sha256 of arrays and JSON values, those aside that are said of every file, and itself."""
    kept = {key: value for key, value in content.items() if key not in ("kind", "format", "checksum")}
    found = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for name in sorted(arrays):
        found.update(f"\n{name} {_form(arrays[name])}\n".encode())
        found.update(np.ascontiguousarray(arrays[name]).data.cast("B") if arrays[name].size else b"")
    return found.hexdigest()


def damaged(where: str, what: str) -> InputError:
    """Return the error for a file that contradicts itself."""
    return InputError(f"{where}: {what}; the file is damaged: copy it again, or write it with {WRITERS}")


def read_file(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (arrays, JSON values) of a detector file; InputError if it is none."""
    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder; name a file of {WRITERS}")
    return load_tensors(path, kind="detector", remedy=f"name a file of {WRITERS}")


def unpack(arrays: Arrays, content: Mapping[str, Any], where: str, device: str = "cpu") -> Calibrated:
    """Return what `pack` was given.

    Raises InputError naming the file `where` if it lacks a part, holds states of another version, or
    contradicts itself: an array of another type or shape than said, a number that is not finite, scores that
    do not ascend, a threshold that does not follow from them.
    """
    if not {"detectors", "combination", "threshold"} <= set(content) or "calibration" not in arrays:
        raise InputError(f"{where}: holds no detector with its threshold; write it with {WRITERS}")
    if content.get("version") != VERSION:
        raise InputError(
            f"{where}: written by another version of this program, whose detectors keep other numbers; "
            f"write it again with {WRITERS}"
        )
    names = [field.name for field in fields(_Content)]
    said = strict(_Content, {key: content[key] for key in names if key in content}, where)
    entries = {entry.name: entry for entry in (strict(_Entry, one, where) for one in said.detectors)}
    detectors = {name: _restored(entry, arrays, where, device) for name, entry in entries.items()}
    if len(entries) < len(said.detectors) or (len(entries) > 1) != (said.combination is not None):
        raise damaged(where, f"{len(said.detectors)} detectors with the combination {said.combination}")
    references = {} if said.combination is None else {name: f"reference.{name}" for name in detectors}
    _check_arrays(arrays, said.arrays, where)
    others = [*references.values(), *([] if said.by_class is None else [PREDICTED])]
    _check_names(arrays, [f"detector.{name}." for name in detectors], others, where)
    for name in ("calibration", *references.values()):
        if arrays[name].ndim != 1 or arrays[name].dtype != np.float64 or (np.diff(arrays[name]) < 0).any():
            raise damaged(where, f"the scores {name!r} are not float64 in ascending order")
    return Calibrated(
        detectors,
        np.asarray(arrays["calibration"]),
        _threshold(said.threshold, np.asarray(arrays["calibration"]), where),
        said.combination,
        {name: np.asarray(arrays[key]) for name, key in references.items()},
        {name: Origin(entry.sources, entry.fitted_on) for name, entry in entries.items()},
        shown(said.calibrated_on),
        [strict(Catch, _shown(one), f"{where}: catches") for one in said.catches],
        shown(said.unmeasured),
        _by_class(said, arrays, where),
    )


def _shown(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: shown(value) if isinstance(value, str) else value for key, value in values.items()}


def _check_arrays(arrays: Arrays, said: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless the arrays are those that the file says, with finite numbers."""
    for name in sorted({*arrays, *said}):
        found, form = _form(arrays[name]) if name in arrays else "nothing", said.get(name, "nothing")
        if found != form:
            raise damaged(where, f"array {name!r} is {found}, where the file says {form}")
        array = arrays[name]
        if array.dtype not in (np.float64, np.float32):
            raise damaged(where, f"array {name!r} is {array.dtype}, which no detector keeps")
        if not all(np.isfinite(rows).all() for rows in chunks(np.atleast_1d(array))):
            raise damaged(where, f"array {name!r} has NaN or infinite values")


def _check_names(arrays: Arrays, prefixes: list[str], others: list[str], where: str) -> None:
    """Raise InputError for an array that belongs to nothing, or one of `others` that is missing."""
    needed = {"calibration", *others}
    strange = [name for name in arrays if name not in needed and not name.startswith(tuple(prefixes))]
    if strange or (missing := sorted(needed - {*arrays})):
        raise damaged(
            where, f"array {strange[0]!r} is of no detector" if strange else f"lacks {missing[0]!r}"
        )


def _threshold(values: Mapping[str, Any], calibration: np.ndarray, where: str) -> Threshold:
    """Return the threshold; InputError unless it follows from the calibration scores."""
    said = strict(Threshold, values, where)
    try:
        found = conformal_threshold(calibration, said.alpha, confidence=said.confidence)
    except InputError as error:
        raise damaged(where, str(error).partition(";")[0]) from None
    same = found.value == said.value and found.images == said.images
    if not same or not np.allclose([found.low, found.high], [said.low, said.high], rtol=1e-6):
        raise damaged(
            where,
            f"the threshold {said.value!r} is not what its scores give, {found.value!r} ({said} is said)",
        )
    return said


def _by_class(said: _Content, arrays: Arrays, where: str) -> ByClass | None:
    """Return the thresholds by class, if there are any; InputError unless they follow from the scores."""
    if said.by_class is None:
        return None
    entry = strict(_ByClass, said.by_class, f"{where}: by_class")
    scores, predicted = np.asarray(arrays["calibration"]), np.asarray(arrays[PREDICTED])
    fit = predicted.shape == scores.shape and np.isin(predicted, np.arange(len(entry.names))).all()
    if not fit or len(entry.thresholds) != len(entry.names):
        raise damaged(where, f"array {PREDICTED!r} is not a class for each calibration image")
    places = predicted.astype(np.int64)
    thresholds = [
        _threshold(values, scores[places == place], where) for place, values in enumerate(entry.thresholds)
    ]
    if {threshold.alpha for threshold in thresholds} != {said.threshold.get("alpha")}:
        raise damaged(where, "the thresholds of its classes are for other rates than it says")
    return ByClass([shown(name) for name in entry.names], places, scores, thresholds)


def _restored(entry: _Entry, arrays: Arrays, where: str, device: str) -> AnyDetector:
    name = known(entry.name, f"detector in {where}:", KEPT)
    settings: Any = strict(KEPT[name].Settings, entry.settings, where)
    detector = make_detector(name, settings, seed=entry.seed, device=device)
    prefix = f"detector.{name}."
    state = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
    if isinstance(detector, NetworkDetector):
        if entry.chosen is not None and entry.widths is None:
            return detector.restore(state, entry.chosen)
    elif entry.chosen is None and set(entry.widths or {}) == set(detector.reads):
        return detector.restore(state, entry.widths or {})
    raise damaged(where, f"it does not say what {name} was fitted to")
