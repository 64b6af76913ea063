"""From normal examples, perhaps with classes and a few known bad ones, to a calibrated detector.

from sslood.deploy.normal.fit_normal import fit_normal

fitted = fit_normal(features, alpha=0.05)  # float [N, D], of any frozen network
fitted.calibrated.warnings()
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sslood.core.errors import InputError
from sslood.deploy.by_class import ByClass
from sslood.deploy.calibrated import Calibrated, Origin
from sslood.deploy.catches import Catch
from sslood.deploy.inputs import Inputs
from sslood.deploy.normal.choice import DISTORTED, Chosen, Given, choose, fitted
from sslood.deploy.normal.examples import Examples
from sslood.deploy.normal.known_bad import KnownBad
from sslood.deploy.normal.left_out import KNOWN, left_out, together
from sslood.deploy.normal.split import Split, split_normal
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.outputs import Head, Outputs
from sslood.ood.measures.conformal import conformal_threshold, finite_scores

SMALLEST = 6  # examples of every class, from which detectors are fitted by class
UNMEASURED = "there are neither pictures to distort nor known bad examples"


@dataclass(frozen=True)
class Distorted:
    """Features [M, D] of distorted copies of normal examples, and the position [M] of the example of each.

    Those of examples that are learned from serve the choice, those of examples that calibrate the
    measurement.
    """

    features: np.ndarray
    of: np.ndarray


@dataclass(frozen=True)
class Fitted:
    """The calibrated detectors, the positions that taught and calibrated, and the classifier that was
    learned.

    head: None without classes. accuracy: its share of right classes among the examples that calibrated.
    """

    calibrated: Calibrated
    split: Split
    head: Head | None = None
    accuracy: float | None = None


def described(found: Fitted, classes: int, what: str = "pictures") -> list[str]:
    """Return in sentences how many of `what` did what, what the detector is, and what it catches."""
    text = f"{len(found.split.fit)} normal {what} teach, {len(found.split.calibration)} calibrate"
    if found.accuracy is not None:
        text += f"; of the latter {found.accuracy:.0%} get the right class of {classes}"
    if found.split.unused:
        text += f"; {found.split.unused} copies or boxes of what calibrates are not used"
    lines = [f"{text}.", *found.calibrated.describe()]
    if found.calibrated.catches:
        lines.append(f"Called OOD: {', '.join(map(str, found.calibrated.catches))}.")
    return lines


def fit_normal(
    features: np.ndarray,
    labels: np.ndarray | None = None,
    classes: Sequence[str] = (),
    *,
    alpha: float,
    detector: str | Sequence[str] = "auto",
    given: Given | None = None,
    logits: np.ndarray | None = None,
    with_head: bool = False,
    bad: Mapping[str, np.ndarray | Examples] | None = None,
    distorted: Distorted | None = None,
    split: Split | None = None,
    per_class: bool = False,
    seed: int = 0,
    device: str = "cpu",
    name: str = "normal examples",
) -> Fitted:
    """Fit and calibrate detectors on features [N, D] of normal examples: at most alpha of new ones are called
    OOD, on average.

    labels int [N], positions among the names `classes`; logits [N, K] of a classifier of them, if there is
    one; with_head: learn a linear one here. detector: "auto", a name, or several, whose standardised scores
    are summed. given: settings by detector that are not to be chosen. bad: features [k, D], k at least 1, of
    known bad examples of each kind; the nearness to them joins the sum. split: of `split_normal`, by default
    made here. per_class: each predicted class has a threshold of its own. Nothing is chosen on an example
    that calibrates, so the rate is exact for new examples that are exchangeable with them. Raises InputError
    for too few examples, an unknown detector, features of unequal width or that are not finite.
    """
    examples = Examples(features, labels, classes, logits, with_head, name=name)
    split = split or split_normal(len(features), alpha=alpha, seed=seed, labels=labels, what=name)
    known = {kind: _known(one, kind, examples) for kind, one in (bad or {}).items()}
    smallest = examples.part(split.fit).smallest
    examples = replace(examples, by_class=smallest >= SMALLEST and len(classes) > 1)
    taught, held = examples.part(split.fit), examples.part(split.calibration)
    distorted = distorted or Distorted(np.zeros((0, features.shape[1]), np.float32), np.zeros(0, np.int64))
    teaches = np.isin(distorted.of, split.fit)
    chosen = choose(
        taught,
        distorted.features[teaches],
        np.searchsorted(split.fit, distorted.of[teaches]),
        None if detector == "auto" else [detector] if isinstance(detector, str) else list(detector),
        given=given,
        seed=seed,
        device=device,
    )
    head = taught.head()
    parts = _Parts(taught.outputs(head), held.outputs(head), taught, chosen, seed, device)
    names = _predicted(parts.held, classes, name) if per_class else None
    found = _calibrated(parts, known, alpha, name, names)
    checks = np.isin(distorted.of, split.calibration)
    catches = list(left_out(found, parts.taught, parts.held, known, head)) if known else []
    if checks.any():
        odd = Inputs(examples.others(distorted.features[checks], DISTORTED).outputs(head))
        caught = found.is_ood(found.score(odd), found.places(odd))
        catches.insert(0, Catch(DISTORTED, "far", len(caught), float(caught.mean())))
    found = replace(found, catches=catches, unmeasured="" if catches else UNMEASURED)
    accuracy = None
    if held.labels is not None and parts.held.logits is not None:
        accuracy = float((parts.held.logits.argmax(1) == held.labels).mean())
    return Fitted(found, split, head, accuracy)


@dataclass(frozen=True)
class _Parts:
    """Outputs of the examples that teach and of those that calibrate, and which detectors they are for."""

    taught: Outputs
    held: Outputs
    examples: Examples  # that teach
    chosen: Chosen
    seed: int
    device: str

    def fit(self, name: str, train: Outputs) -> Detector:
        return fitted(name, self.chosen.settings[name], train, self.seed, self.device)


def _known(bad: np.ndarray | Examples, kind: str, examples: Examples) -> Examples:
    """Return known bad examples; InputError unless they are there, and of the same network as normal ones."""
    found = bad if isinstance(bad, Examples) else examples.others(bad, kind)
    found = replace(found, classes=examples.classes, by_class=examples.by_class, name=kind)
    if not len(found):
        raise InputError(f"known bad examples {kind!r}: there is none; give at least one")
    if found.features.shape[1] != examples.features.shape[1]:
        raise InputError(
            f"known bad examples {kind!r} have {found.features.shape[1]} features, normal ones "
            f"{examples.features.shape[1]}; take both from one network"
        )
    if found.logits is None and examples.logits is not None:
        raise InputError(
            f"known bad examples {kind!r} have no logits, normal ones have; give both, or neither"
        )
    return found


def _predicted(held: Outputs, classes: Sequence[str], name: str) -> Sequence[str]:
    """Return the names of the classes that are predicted; InputError if none is."""
    if held.logits is None:
        raise InputError(
            f"{name}: thresholds for each class need classes: put the pictures of each into a folder, give "
            "labels or logits, or omit --per_class"
        )
    return classes or [str(place) for place in range(held.logits.shape[1])]


def _calibrated(
    parts: _Parts, known: Mapping[str, Examples], alpha: float, name: str, per_class: Sequence[str] | None
) -> Calibrated:
    """Return the chosen detectors with that of known bad examples, fitted and calibrated.

    per_class: names of the predicted classes, if each is to have a threshold.
    """
    detectors: dict[str, Detector] = {one: parts.fit(one, parts.taught) for one in parts.chosen.settings}
    on = f"{name} ({len(parts.taught)})"
    origins = {
        one: Origin(parts.chosen.sources(one), on if detector.state else "")
        for one, detector in detectors.items()
    }
    references = {one: _reference(one, parts) for one in detectors} if known or len(detectors) > 1 else {}
    if known:
        bank = np.concatenate([one.features for one in known.values()])
        detectors[KNOWN] = KnownBad(device=parts.device).fit(Outputs("known bad examples", features=bank))
        origins[KNOWN] = Origin({}, " and ".join(f"{kind} ({len(one)})" for kind, one in known.items()))
        references[KNOWN] = detectors[KNOWN].score(parts.taught)
    scores = {one: finite_scores(detector.score(parts.held), one) for one, detector in detectors.items()}
    unordered = together(references, scores)
    order = np.argsort(unordered, kind="stable")
    calibration, by_class = unordered[order], None
    if per_class is not None:
        places = Inputs(parts.held).predicted()[order]
        by_class = ByClass.of(calibration, places, per_class, alpha)
    return Calibrated(
        detectors,
        calibration,
        conformal_threshold(calibration, alpha),
        "sum" if references else None,
        {one: np.sort(scores) for one, scores in references.items()},
        origins,
        f"{name}, held out",
        by_class=by_class,
    )


def _reference(name: str, parts: _Parts) -> np.ndarray:
    """Return scores of the examples that teach as if they were new: by detectors fitted to the other half.

    They put a detector on a scale with others, and no example that calibrates has to be spent on that.
    """
    labels = parts.examples.labels if parts.examples.by_class else None
    order = np.arange(len(parts.taught)) if labels is None else np.argsort(labels, kind="stable")
    outputs = [_rows(parts.taught, np.sort(order[start::2])) for start in (0, 1)]
    ways = ((outputs[0], outputs[1]), (outputs[1], outputs[0]))
    return np.concatenate([finite_scores(parts.fit(name, one).score(other), name) for one, other in ways])


def _rows(outputs: Outputs, rows: np.ndarray) -> Outputs:
    parts = {key: getattr(outputs, key) for key in ("features", "logits", "labels")}
    return replace(outputs, **{key: array[rows] for key, array in parts.items() if array is not None})
