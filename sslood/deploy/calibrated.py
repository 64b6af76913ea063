"""Fitted detectors as arrays and JSON values, with the calibration that turns scores into decisions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sslood.core.discovery import classes_in
from sslood.core.errors import InputError, known
from sslood.core.settings import strict
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
from sslood.ood.kit.network_detector import Network, NetworkDetector, Progress
from sslood.ood.kit.outputs import Outputs, part_of
from sslood.ood.ssd.ssd import SSD

Kind = type[Detector] | type[NetworkDetector]
DETECTORS = classes_in(posthoc, Detector)
STOCHASTIC = classes_in(stochastic, Detector)
NETWORK = classes_in(network, NetworkDetector)
KINDS: dict[str, Kind] = {**DETECTORS, "ssd": SSD, **STOCHASTIC, **NETWORK}


@dataclass(frozen=True)
class Given:
    """What detectors may read of N images: outputs of the model, uint8 images [N, C, H, W], the network.

    None for what no detector at hand reads.
    """

    outputs: Outputs | None = None
    images: np.ndarray | None = None
    network: Network | None = None

    def __len__(self) -> int:
        return len(self.images if self.outputs is None else self.outputs)

    def part(self, rows: slice) -> "Given":
        """Return what is given of some of the images."""
        outputs = None if self.outputs is None else part_of(self.outputs, rows)
        return replace(self, outputs=outputs, images=None if self.images is None else self.images[rows])

    def score(
        self, detector: Detector | NetworkDetector, progress: Progress = lambda count: None
    ) -> np.ndarray:
        """Return the scores float64 [N] of a fitted detector, larger = more OOD."""
        if isinstance(detector, NetworkDetector):
            return detector.score(self.network, self.images, progress)
        return detector.score(self.outputs)


@dataclass(frozen=True)
class Calibrated:
    """Fitted detectors by name, and what makes decisions of their scores.

    With a combination there are several, and the score is the `evidence` of their p-values among
    `references`, ascending scores of ID images by detector; else there is one and its score is the score.
    calibration: ascending scores [n] of the calibration images. threshold: from these.
    """

    detectors: Mapping[str, Detector | NetworkDetector]
    calibration: np.ndarray
    threshold: Threshold
    combination: Combination | None = None
    references: Mapping[str, np.ndarray] | None = None

    @property
    def name(self) -> str:
        """The detector's name, or e.g. "gmm + energy by simes"."""
        names = " + ".join(self.detectors)
        return names if self.combination is None else f"{names} by {self.combination}"

    @property
    def detector(self) -> Detector | NetworkDetector:
        """The only detector, or the first."""
        return next(iter(self.detectors.values()))

    @property
    def asks_network(self) -> bool:
        """Whether scores need the images and the network, not its outputs alone."""
        return any(isinstance(detector, NetworkDetector) for detector in self.detectors.values())

    def score(self, given: Given) -> np.ndarray:
        """Return float64 [N], larger = more OOD."""
        scores = {name: given.score(detector) for name, detector in self.detectors.items()}
        if self.combination is None:
            return scores[self.name]
        return evidence(self.references, scores, self.combination)

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """Return conformal p-values of scores [N]: float64 [N], small for OOD."""
        return p_values(self.calibration, scores)

    def is_ood(self, scores: np.ndarray) -> np.ndarray:
        """Return bool [N]: whether each score is above the threshold."""
        return scores > self.threshold.value


def made(name: str, settings: Any, *, seed: int, device: str) -> Detector | NetworkDetector:
    """Return an unfitted detector; InputError if the name is unknown."""
    kind = KINDS[known(name, "detector", KINDS)]
    return kind(settings) if issubclass(kind, NetworkDetector) else kind(settings, seed=seed, device=device)


def calibrate(
    detectors: Mapping[str, Detector | NetworkDetector],
    train: Given,
    held: Given,
    *,
    alpha: float,
    tuning: np.ndarray | None = None,
    combination: Combination | None = None,
    progress: Progress = lambda count: None,
) -> Calibrated:
    """Fit detectors and set the threshold for the false-alarm rate alpha on ID images held out of training.

    What is fitted on ID validation, and the references of a combination, get every second image of `held`,
    and the others calibrate: an image that the score was made with is not exchangeable with a new one.
    tuning: uint8 images, for detectors that choose on outliers. Raises InputError for too few images.
    """
    first = second = held
    if combination is not None or any(map(reads_validation, detectors.values())):
        first, second = held.part(slice(0, None, 2)), held.part(slice(1, None, 2))
    _check_count(alpha, len(second), len(held))
    for detector in detectors.values():
        if isinstance(detector, NetworkDetector):
            images = {"train": train.images, "validation": first.images, "tuning": tuning}
            detector.fit(train.network, images, progress)
        else:
            detector.fit(train.outputs, first.outputs)
    references = None
    if combination is not None:
        references = {name: np.sort(first.score(one, progress)) for name, one in detectors.items()}
    scores = {name: second.score(detector, progress) for name, detector in detectors.items()}
    score = evidence(references, scores, combination) if combination else scores[next(iter(scores))]
    calibration = np.sort(score)
    return Calibrated(
        detectors, calibration, conformal_threshold(calibration, alpha), combination, references
    )


def _check_count(alpha: float, count: int, held: int) -> None:
    """Raise InputError if there are too few images, before anything is fitted."""
    if count < (needed := images_needed(alpha)):
        half = f", half of {held}, since the other half is learned from" if count < held else ""
        raise InputError(
            f"a threshold for alpha {alpha} needs at least {needed} calibration images, there are "
            f"{count}{half}; calibrate on more ID images or raise alpha"
        )


def reads_validation(detector: Detector | NetworkDetector) -> bool:
    """Whether ID validation images enter what the detector learns."""
    if isinstance(detector, NetworkDetector):
        return "validation" in detector.fitted_on
    return detector.on_validation


def pack(calibrated: Calibrated) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (arrays, JSON values) from which `unpack` makes the same detectors again."""
    arrays, about = {"calibration": calibrated.calibration}, []
    for name, detector in calibrated.detectors.items():
        arrays |= {f"detector.{name}.{key}": array for key, array in detector.state.items()}
        if calibrated.combination is not None:
            arrays[f"reference.{name}"] = calibrated.references[name]
        about.append({"name": name, "settings": asdict(detector.settings), **_learned(detector)})
    content = {"detectors": about, "combination": calibrated.combination}
    return arrays, {**content, "threshold": asdict(calibrated.threshold)}


def _learned(detector: Detector | NetworkDetector) -> dict[str, Any]:
    """Return what `restore` and `made` need beside the state and the settings."""
    if isinstance(detector, NetworkDetector):
        return {"chosen": detector.chosen}
    return {"seed": detector.seed, "widths": detector.widths}


def unpack(
    arrays: Mapping[str, np.ndarray], content: Mapping[str, Any], where: str, device: str = "cpu"
) -> Calibrated:
    """Return what `pack` was given; InputError naming the file `where` if it lacks a part."""
    if not {"detectors", "combination", "threshold"} <= set(content) or "calibration" not in arrays:
        raise InputError(
            f"{where}: holds no detector with its threshold; write it with sslood.commands.deploy"
        )
    detectors = {about["name"]: _restored(about, arrays, where, device) for about in content["detectors"]}
    threshold = strict(Threshold, content["threshold"], where)
    references = None
    if content["combination"] is not None:
        references = {name: np.asarray(arrays[f"reference.{name}"]) for name in detectors}
    calibration = np.asarray(arrays["calibration"])
    return Calibrated(detectors, calibration, threshold, content["combination"], references)


def _restored(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray], where: str, device: str):
    name = known(about["name"], f"detector in {where}:", KINDS)
    settings = strict(KINDS[name].Settings, about["settings"], where)
    detector = made(name, settings, seed=about.get("seed", 0), device=device)
    prefix = f"detector.{name}."
    state = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
    return detector.restore(state, about["chosen" if isinstance(detector, NetworkDetector) else "widths"])
