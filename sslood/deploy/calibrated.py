"""Fitted detectors as arrays and JSON values, with the calibration that turns scores into decisions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from sslood.core.discovery import classes_in
from sslood.core.errors import InputError, known
from sslood.deploy.by_class import ByClass
from sslood.deploy.catches import Catch, few_images, hardest, warnings
from sslood.deploy.inputs import AnyDetector, Inputs, present
from sslood.deploy.normal.known_bad import KnownBad
from sslood.deploy.thresholds import p_values
from sslood.ood import network, posthoc, stochastic
from sslood.ood.kit.combining import Combination, Combiner
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.network_detector import NetworkDetector, Progress
from sslood.ood.measures.conformal import Threshold, conformal_threshold, finite_scores, images_needed
from sslood.ood.ssd.ssd import SSD

Kind = type[Detector] | type[NetworkDetector]
DETECTORS = classes_in(posthoc, Detector)
STOCHASTIC = classes_in(stochastic, Detector)
NETWORK = classes_in(network, NetworkDetector)
KINDS: dict[str, Kind] = {**DETECTORS, "ssd": SSD, **STOCHASTIC, **NETWORK}
KEPT: dict[str, Kind] = {**KINDS, "known_bad": KnownBad}  # that a detector file may hold


@dataclass(frozen=True)
class Origin:
    """Where a fitted detector comes from, in words: of each setting, and the images it was fitted on."""

    sources: Mapping[str, str] = field(default_factory=dict)
    fitted_on: str = ""


@dataclass(frozen=True)
class Calibrated:
    """Fitted detectors by name, and what turns their scores into decisions.

    With a combination there are several, and a `Combiner` makes their score, with `references`, ascending
    scores of ID images by detector; else there is one and its score is the score.
    calibration: ascending scores [n] of the calibration images; threshold: computed from them;
    calibrated_on: their name. origins: of each detector. catches: what it called OOD of the run's test sets;
    unmeasured: why that is not known. by_class: thresholds by predicted class, where these decide; then
    `threshold` is that of all images together, and decides nothing.
    """

    detectors: Mapping[str, AnyDetector]
    calibration: np.ndarray
    threshold: Threshold
    combination: Combination | None = None
    references: Mapping[str, np.ndarray] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    calibrated_on: str = ""
    catches: Sequence[Catch] = ()
    unmeasured: str = ""
    by_class: ByClass | None = None

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

    def promise(self, of: str = "ID", unit: str = "calibration images") -> str:
        """Return in words what is called OOD, and of what images how many; unit: what calibrates."""
        limit, count = self.threshold, f"from {self.threshold.images} {unit}"
        digits = ".3f" if limit.alpha >= 0.01 else ".2g"
        if self.by_class is not None:
            return (
                f"OOD is above the threshold of the predicted class; at most {limit.alpha:g} of {of} of each "
                f"class will be called OOD on average ({count}, {self.fewest} or more of a class)"
            )
        return (
            f"OOD is above {limit.value:.6g}; at most {limit.alpha:g} of {of} will be called OOD on average "
            f"({limit.low:{digits}} to {limit.high:{digits}}, {count})"
        )

    def warnings(self) -> list[str]:
        """Return in sentences why the decisions deserve no trust; [] if nothing is known against them."""
        return self.alarms() + self.notes()

    def alarms(self) -> list[str]:
        """Return in sentences what is known against the decisions; [] if nothing is."""
        return warnings(self.catches, self.threshold)

    def notes(self) -> list[str]:
        """Return in sentences what is not known of the decisions, or only roughly."""
        found: list[str] = []
        if not hardest(self.catches):
            why = self.unmeasured or "there is no near or far set"
            found.append(f"what it catches was not measured: {why}")
        ranks = min(map(len, self.references.values())) if self.references else None
        return found + few_images(self.threshold, ranks, self.fewest)

    @property
    def fewest(self) -> int:
        """The number of calibration images of a p-value; by class, of the class that has fewest."""
        return self.threshold.images if self.by_class is None else self.by_class.fewest

    @property
    def detector(self) -> AnyDetector:
        """The only detector, or the first."""
        return next(iter(self.detectors.values()))

    @property
    def reads_network(self) -> bool:
        """Whether scores need the images and the network, not its outputs alone."""
        return any(isinstance(detector, NetworkDetector) for detector in self.detectors.values())

    def at(self, alpha: float) -> "Calibrated":
        """Return the same detectors with the threshold for another false-alarm rate, by the same images.

        What the threshold of the file caught is not known of it. InputError for too few images.
        """
        if alpha == self.threshold.alpha:
            return self
        threshold = conformal_threshold(self.calibration, alpha)
        unmeasured = f"its file says that for alpha {self.threshold.alpha:g} only, not for {alpha:g}"
        by_class = None if self.by_class is None else self.by_class.at(alpha)
        return replace(self, threshold=threshold, by_class=by_class, catches=(), unmeasured=unmeasured)

    def score(self, inputs: Inputs) -> np.ndarray:
        """Return float64 [N], larger = more OOD. InputError unless all are finite: NaN is above nothing."""
        scores = {
            name: finite_scores(inputs.score(detector), name) for name, detector in self.detectors.items()
        }
        if self.combination is None:
            return scores[self.name]
        return Combiner(self.references, self.combination).score(scores)

    def places(self, inputs: Inputs) -> np.ndarray | None:
        """Return what `p_values` and `is_ood` need beside scores: the predicted classes, if these decide."""
        return None if self.by_class is None else inputs.predicted()

    def p_values(self, scores: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
        """Return conformal p-values of scores [N]: float64 [N], small for OOD. places: by `places`."""
        if self.by_class is None:
            return p_values(self.calibration, scores)
        return self.by_class.p_values(scores, present(places))

    def is_ood(self, scores: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
        """Return bool [N]: whether each score is above its threshold. places: by `places`."""
        if self.by_class is None:
            return scores > self.threshold.value
        return self.by_class.is_ood(scores, present(places))


def make_detector(name: str, settings: Any, *, seed: int, device: str) -> AnyDetector:
    """Return an unfitted detector; InputError if the name is unknown."""
    kind = KEPT[known(name, "detector", KEPT)]
    return kind(settings) if issubclass(kind, NetworkDetector) else kind(settings, seed=seed, device=device)


def calibrate(
    detectors: Mapping[str, AnyDetector],
    train: Inputs,
    heldout: Inputs,
    *,
    alpha: float,
    validation: Inputs | None = None,
    combination: Combination | None = None,
    per_class: Sequence[str] | None = None,
    sources: Mapping[str, Mapping[str, str]] | None = None,
    progress: Progress = lambda count: None,
) -> Calibrated:
    """Fit detectors and set the threshold for the false-alarm rate alpha on ID images held out of training.

    train, validation: ID images that detectors are fitted on, as in their stages. Without `validation`, a
    detector that is fitted on it gets every second image of `heldout`, and the others calibrate: an image
    that the score was fitted on is not exchangeable with a new one. So do the references of a combination.
    per_class: names of the classes that the model predicts, if each is to have a threshold of its own.
    sources: of the settings, detector -> setting -> words. Raises InputError for too few images.
    """
    halved = validation is None and any(map(reads_validation, detectors.values()))
    first = second = heldout
    if halved or combination is not None:
        first, second = heldout.halves()
    _check_count(alpha, len(second), len(heldout))
    places = np.zeros(len(second), np.int64) if per_class is None else second.predicted()
    if per_class is not None:  # before anything is fitted
        ByClass.of(np.zeros(len(second)), places, per_class, alpha)
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
        references = {
            name: np.sort(finite_scores(first.score(one, progress), name)) for name, one in detectors.items()
        }
        score = Combiner(references, combination).score(scores)
    order = np.argsort(score, kind="stable")
    calibration, threshold = score[order], conformal_threshold(score, alpha)
    by_class = None if per_class is None else ByClass.of(calibration, places[order], per_class, alpha)
    found = Calibrated(detectors, calibration, threshold, combination, references, origins, second.name)
    return replace(found, by_class=by_class)


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
