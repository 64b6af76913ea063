"""Fitted detectors as arrays and JSON values, with the calibration that turns scores into decisions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stages.core.cli import strict
from stages.core.errors import InputError, known
from stages.ood.detector import Detector
from stages.ood.outputs import Outputs, part_of
from stages.ood.registry import DETECTORS
from stages.ood.ssd import Ssd
from stages.ood.thresholds import Threshold, conformal_threshold, p_values

KINDS: dict[str, type[Detector]] = {**DETECTORS, "ssd": Ssd}


@dataclass(frozen=True)
class Calibrated:
    """A fitted detector, the ascending scores [n] of its calibration images, and the threshold from them."""

    name: str
    detector: Detector
    calibration: np.ndarray
    threshold: Threshold

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """Return conformal p-values of scores [N]: float64 [N], small for OOD."""
        return p_values(self.calibration, scores)

    def is_ood(self, scores: np.ndarray) -> np.ndarray:
        """Return bool [N]: whether each score is above the threshold."""
        return scores > self.threshold.value


def calibrate(
    name: str, settings: Any, train: Outputs, validation: Outputs, *, alpha: float, seed: int, device: str
) -> Calibrated:
    """Fit the detector `name` and set its threshold for the false-alarm rate alpha on ID validation.

    A detector that is itself fitted on validation gets every second image of it, and the others
    calibrate, since an image that was fitted on is not exchangeable with a new one. Raises InputError
    for an unknown detector, a model without what it reads, or too few images for alpha.
    """
    kind = KINDS[known(name, "detector", KINDS)]
    detector = kind(settings, seed=seed, device=device)
    held_out = validation
    if kind.on_validation:
        validation, held_out = part_of(validation, slice(0, None, 2)), part_of(validation, slice(1, None, 2))
    scores = np.sort(detector.fit(train, validation).score(held_out))
    return Calibrated(name, detector, scores, conformal_threshold(scores, alpha))


def pack(calibrated: Calibrated) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (arrays, JSON values) from which `unpack` makes the same detector again."""
    detector = calibrated.detector
    arrays = {f"detector.{key}": array for key, array in detector.state.items()}
    about = {
        "name": calibrated.name,
        "settings": asdict(detector.settings),
        "seed": detector.seed,
        "widths": detector.widths,
    }
    content = {"detector": about, "threshold": asdict(calibrated.threshold)}
    return {**arrays, "calibration": calibrated.calibration}, content


def unpack(
    arrays: Mapping[str, np.ndarray], content: Mapping[str, Any], where: str, device: str = "cpu"
) -> Calibrated:
    """Return what `pack` was given; InputError naming the file `where` if it lacks a part."""
    if not {"detector", "threshold"} <= set(content) or "calibration" not in arrays:
        raise InputError(f"{where}: holds no detector with its threshold; write it with stages.deploy")
    about = content["detector"]
    kind = KINDS[known(about["name"], f"detector in {where}:", KINDS)]
    detector = kind(strict(kind.Settings, about["settings"], where), seed=about["seed"], device=device)
    prefix = "detector."
    state = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
    detector.restore(state, about["widths"])
    threshold = strict(Threshold, content["threshold"], where)
    return Calibrated(about["name"], detector, np.asarray(arrays["calibration"]), threshold)
