"""Fitted detectors as arrays and JSON values, with the calibration that turns scores into decisions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sslood.core.discovery import classes_in
from sslood.core.errors import InputError, known
from sslood.core.settings import strict
from sslood.deploy.inputs import AnyDetector, Inputs
from sslood.deploy.thresholds import (
    Combination,
    Threshold,
    conformal_threshold,
    evidence,
    images_needed,
    p_values,
)
from sslood.ood import network, posthoc, stochastic
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.network_detector import NetworkDetector, Progress
from sslood.ood.ssd.ssd import SSD

VERSION = 2  # of what `pack` writes; raised when detectors keep other states
Kind = type[Detector] | type[NetworkDetector]
DETECTORS = classes_in(posthoc, Detector)
STOCHASTIC = classes_in(stochastic, Detector)
NETWORK = classes_in(network, NetworkDetector)
KINDS: dict[str, Kind] = {**DETECTORS, "ssd": SSD, **STOCHASTIC, **NETWORK}


@dataclass(frozen=True)
class Origin:
    """Where a fitted detector comes from, in words: of each setting, and the images it was fitted on."""

    sources: Mapping[str, str] = field(default_factory=dict)
    fitted_on: str = ""


@dataclass(frozen=True)
class Calibrated:
    """Fitted detectors by name, and what turns their scores into decisions.

    With a combination there are several, and the score is the `evidence` of their p-values among
    `references`, ascending scores of ID images by detector; else there is one and its score is the score.
    calibration: ascending scores [n] of the calibration images; threshold: computed from them;
    calibrated_on: their name. origins: of each detector.
    """

    detectors: Mapping[str, AnyDetector]
    calibration: np.ndarray
    threshold: Threshold
    combination: Combination | None = None
    references: Mapping[str, np.ndarray] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    calibrated_on: str = ""

    @property
    def name(self) -> str:
        """The detector's name, or e.g. "gmm + energy by simes"."""
        names = " + ".join(self.detectors)
        return names if self.combination is None else f"{names} by {self.combination}"

    def describe(self) -> list[str]:
        """Return one sentence per detector: its settings with their sources, and what it was fitted on."""
        lines = []
        for name, detector in self.detectors.items():
            origin = self.origins.get(name, Origin())
            values = asdict(detector.settings).items()
            settings = "; ".join(
                f"{key} = {value} ({origin.sources.get(key, 'given')})" for key, value in values
            )
            lines.append(f"{name}: {settings or 'no settings'}; fitted on {origin.fitted_on or 'ID images'}.")
        return lines

    @property
    def detector(self) -> AnyDetector:
        """The only detector, or the first."""
        return next(iter(self.detectors.values()))

    @property
    def reads_network(self) -> bool:
        """Whether scores need the images and the network, not its outputs alone."""
        return any(isinstance(detector, NetworkDetector) for detector in self.detectors.values())

    def score(self, inputs: Inputs) -> np.ndarray:
        """Return float64 [N], larger = more OOD."""
        scores = {name: inputs.score(detector) for name, detector in self.detectors.items()}
        if self.combination is None:
            return scores[self.name]
        return evidence(self.references, scores, self.combination)

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """Return conformal p-values of scores [N]: float64 [N], small for OOD."""
        return p_values(self.calibration, scores)

    def is_ood(self, scores: np.ndarray) -> np.ndarray:
        """Return bool [N]: whether each score is above the threshold."""
        return scores > self.threshold.value


def make_detector(name: str, settings: Any, *, seed: int, device: str) -> AnyDetector:
    """Return an unfitted detector; InputError if the name is unknown."""
    kind = KINDS[known(name, "detector", KINDS)]
    return kind(settings) if issubclass(kind, NetworkDetector) else kind(settings, seed=seed, device=device)


def calibrate(
    detectors: Mapping[str, AnyDetector],
    train: Inputs,
    heldout: Inputs,
    *,
    alpha: float,
    validation: Inputs | None = None,
    combination: Combination | None = None,
    sources: Mapping[str, Mapping[str, str]] | None = None,
    progress: Progress = lambda count: None,
) -> Calibrated:
    """Fit detectors and set the threshold for the false-alarm rate alpha on ID images held out of training.

    train, validation: ID images that detectors are fitted on, as in their stages. Without `validation`, a
    detector that is fitted on it gets every second image of `heldout`, and the others calibrate: an image
    that the score was fitted on is not exchangeable with a new one. So do the references of a combination.
    sources: of the settings, detector -> setting -> words. Raises InputError for too few images.
    """
    halved = validation is None and any(map(reads_validation, detectors.values()))
    first = second = heldout
    if halved or combination is not None:
        first, second = heldout.halves()
    _check_count(alpha, len(second), len(heldout))
    learnt = first if validation is None else validation
    origins = {}
    for name, detector in detectors.items():
        train.fit(detector, learnt, progress)
        origins[name] = Origin((sources or {}).get(name, {}), _fitted_on(detector, train, learnt))
    scores = {name: second.score(detector, progress) for name, detector in detectors.items()}
    references = {}
    if combination is None:
        (score,) = scores.values()
    else:
        references = {name: np.sort(first.score(one, progress)) for name, one in detectors.items()}
        score = evidence(references, scores, combination)
    calibration = np.sort(score)
    threshold = conformal_threshold(calibration, alpha)
    return Calibrated(detectors, calibration, threshold, combination, references, origins, second.name)


def _check_count(alpha: float, count: int, heldout: int) -> None:
    """Raise InputError if there are too few images, before anything is fitted."""
    if count < (needed := images_needed(alpha)):
        half = f", half of {heldout}, since the other half is learned from" if count < heldout else ""
        raise InputError(
            f"a threshold for alpha {alpha} needs at least {needed} calibration images, there are "
            f"{count}{half}; calibrate on more ID images or raise alpha"
        )


def reads_validation(detector: AnyDetector) -> bool:
    """Whether a detector is fitted on ID validation images."""
    if isinstance(detector, NetworkDetector):
        return "validation" in detector.fitted_on
    return detector.on_validation


def _fitted_on(detector: AnyDetector, train: Inputs, validation: Inputs) -> str:
    """Return in words which images a detector was fitted on."""
    if isinstance(detector, NetworkDetector):
        splits = detector.fitted_on
    else:
        splits = ("validation",) if detector.on_validation else ("train",)
    parts = [part for part, split in ((train, "train"), (validation, "validation")) if split in splits]
    return " and ".join(f"{part.name} ({len(part)})" for part in parts) if detector.state else "no images"


def pack(calibrated: Calibrated) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (arrays, JSON values) from which `unpack` makes the same detectors again."""
    arrays, entries = {"calibration": calibrated.calibration}, []
    for name, detector in calibrated.detectors.items():
        arrays |= {f"detector.{name}.{key}": array for key, array in (detector.state or {}).items()}
        if calibrated.combination is not None:
            arrays[f"reference.{name}"] = calibrated.references[name]
        origin = asdict(calibrated.origins.get(name, Origin()))
        entries.append({"name": name, "settings": asdict(detector.settings), **origin, **_learned(detector)})
    content = {"version": VERSION, "detectors": entries, "combination": calibrated.combination}
    threshold = {"threshold": asdict(calibrated.threshold), "calibrated_on": calibrated.calibrated_on}
    return arrays, content | threshold


def _learned(detector: AnyDetector) -> dict[str, Any]:
    """Return what `restore` and `make_detector` need beside the state and the settings."""
    if isinstance(detector, NetworkDetector):
        return {"chosen": detector.chosen}
    return {"seed": detector.seed, "widths": detector.widths}


def unpack(
    arrays: Mapping[str, np.ndarray], content: Mapping[str, Any], where: str, device: str = "cpu"
) -> Calibrated:
    """Return what `pack` was given.

    Raises InputError naming the file `where` if it lacks a part, or holds states of another version.
    """
    if not {"detectors", "combination", "threshold"} <= set(content) or "calibration" not in arrays:
        raise InputError(
            f"{where}: holds no detector with its threshold; write it with sslood.commands.deploy"
        )
    if content.get("version") != VERSION:
        raise InputError(
            f"{where}: written by another version of this program, whose detectors keep other numbers; "
            "write it again with `sslood deploy`"
        )
    entries = {entry["name"]: entry for entry in content["detectors"]}
    detectors = {name: _restored(entry, arrays, where, device) for name, entry in entries.items()}
    references = {}
    if content["combination"] is not None:
        references = {name: np.asarray(arrays[f"reference.{name}"]) for name in detectors}
    origins = {
        name: Origin(entry.get("sources", {}), entry.get("fitted_on", "")) for name, entry in entries.items()
    }
    return Calibrated(
        detectors,
        np.asarray(arrays["calibration"]),
        strict(Threshold, content["threshold"], where),
        content["combination"],
        references,
        origins,
        content.get("calibrated_on", ""),
    )


def _restored(
    entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray], where: str, device: str
) -> AnyDetector:
    name = known(entry["name"], f"detector in {where}:", KINDS)
    settings: Any = strict(KINDS[name].Settings, entry["settings"], where)
    detector = make_detector(name, settings, seed=entry.get("seed", 0), device=device)
    prefix = f"detector.{name}."
    state = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
    if isinstance(detector, NetworkDetector):
        return detector.restore(state, entry["chosen"])
    return detector.restore(state, entry["widths"])
