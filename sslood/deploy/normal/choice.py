"""Which detector, with which settings, for normal examples alone: none of those that calibrate takes part.

Candidates are fitted to some of the examples and told, on others, from pseudo-outliers: distorted pictures,
and whole classes that they were not fitted to. No single case would do: of photographs of hands that sign
digits, the energy finds 95 % (AUROC) of signs 7 to 9 that it does not know, and 33 % of signs 0 to 2.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from sslood.core.errors import InputError
from sslood.core.seeding import numpy_stream
from sslood.deploy.calibrated import DETECTORS, make_detector
from sslood.deploy.normal.examples import Examples
from sslood.deploy.normal.preference import first_best, members
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.fitting import Streaming
from sslood.ood.kit.outputs import Head, Outputs
from sslood.ood.kit.search import Held

FOLDS = 3
MOST = 2000  # examples that a choice is made on
FEWEST = 6  # examples to fit to, and to tell from outliers, that a fold without some classes must have
LARGEST = 2**24  # values of a detector's state: 128 MiB
LEFT_OUT, DISTORTED = "classes left out", "distorted pictures"
DEFAULT = "its default, as there are neither pictures to distort nor three classes"
Grid = Mapping[str, Sequence[Mapping[str, Any]]]
Given = Mapping[str, Mapping[str, Any]]

# in order of preference; few examples of many dimensions want a small k and a large ridge
GRID: Grid = {
    "knn": [{"k": k} for k in (5, 2, 10, 1, 20)],
    "mahalanobis": [{"ridge": ridge, "beta": beta} for beta in (1.0, 0.0) for ridge in (0.1, 1.0, 0.01)],
    "residual": [{"share": share, "beta": 1.0} for share in (0.25, 0.05)],
}
OF_CLASSES: Grid = {"gmm": [{"ridge": ridge, "beta": 1.0} for ridge in (0.1, 1.0)]}
OF_LOGITS: Grid = {"energy": [{}]}
OF_HEAD: Grid = {"fdbd": [{}], "nci": [{}], "membership": [{}]}
PLAIN = ("knn",)  # where there is nothing to choose on


@dataclass(frozen=True)
class Chosen:
    """Detectors (name -> settings), and where they come from in words; one, or several to be summed.

    given: name -> those of the settings that were not chosen.
    """

    settings: Mapping[str, Any]
    source: str
    given: Given = field(default_factory=dict)

    def sources(self, name: str) -> dict[str, str]:
        """Return where each setting of a detector comes from."""
        mine = self.given.get(name, {})
        return {key: "given" if key in mine else self.source for key in vars(self.settings[name])}


@dataclass(frozen=True)
class _Fold:
    """Examples to fit to, others to be told from outliers, and the outliers by name."""

    train: Examples
    inside: Examples
    outside: Mapping[str, Examples]


def grid_for(examples: Examples) -> Grid:
    """Return the candidates, name -> settings, that examples of this kind allow."""
    grid, classes, width = dict(GRID), len(examples.classes), examples.features.shape[1]
    if examples.by_class and classes * width**2 <= LARGEST:
        grid |= OF_CLASSES
    if classes > 1 and (examples.logits is not None or examples.with_head):
        grid |= OF_LOGITS
    if classes > 1 and examples.with_head:
        grid |= OF_HEAD if examples.by_class else {}
    return grid


def choose(
    examples: Examples,
    distorted: np.ndarray,
    of: np.ndarray,
    names: Sequence[str] | None,
    *,
    given: Given | None = None,
    seed: int,
    device: str = "cpu",
) -> Chosen:
    """Return the detectors with the highest mean AUROC against the kinds of pseudo-outliers, or the first as
    good.

    distorted [M, D]: features of distorted examples, of [M] which of `examples` each was; there may be none.
    names: the detectors, each with the best settings of its grid; None: chosen greedily, at most three.
    given: settings by detector that are not to be chosen.
    Raises InputError for an unknown name, or where none of a detector's settings is possible.
    """
    grid = grid_for(examples)
    if names is not None:
        for name in names:
            _check_name(name, examples)
        every = {**GRID, **OF_CLASSES}
        grid = {name: every.get(name, [{}]) for name in names}
    given = given or {}
    grid = {name: _with(options, given.get(name, {})) for name, options in grid.items()}
    folds = list(_folds(examples, distorted, of, seed))
    if not any(fold.outside for fold in folds):
        settings = {name: _settings(name, grid[name][0]) for name in (PLAIN if names is None else names)}
        return Chosen(settings, DEFAULT, given)
    held, settings = _best(grid, folds, seed, device)
    kinds = " and ".join(dict.fromkeys(key for fold in folds for key in fold.outside))
    learned = "pictures" if len(distorted) else "examples"
    source = f"chosen on the {learned} it learns from, by the mean AUROC against {kinds}"
    chosen = members(held) if names is None else list(held)
    return Chosen({name: settings[name] for name in chosen}, source, given)


def _with(options: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the candidates with what is given in each, once each."""
    found: list[dict[str, Any]] = []
    for option in ({**option, **given} for option in options):
        if option not in found:
            found.append(option)
    return found


def _check_name(name: str, examples: Examples) -> None:
    """Raise InputError for an unknown detector, and for one of a classifier where there is none."""
    if name not in DETECTORS:
        raise InputError(f"unknown detector {name!r}; known: auto, {', '.join(sorted(DETECTORS))}")
    kind, learns = DETECTORS[name], examples.with_head and len(examples.classes) > 1
    if not learns and (kind.needs_head or ("logits" in kind.reads and examples.logits is None)):
        raise InputError(
            f"detector {name!r} reads a classifier of {examples.name}, and there is none; give their classes "
            "(one folder for each), or choose another"
        )


def _settings(name: str, options: Mapping[str, Any]) -> Any:
    return DETECTORS[name].Settings(**options)


def _folds(examples: Examples, distorted: np.ndarray, of: np.ndarray, seed: int) -> Iterator[_Fold]:
    """Yield FOLDS times two thirds to fit to and a third to be told from outliers, without some classes.

    A fold that would have fewer than FEWEST of either without these keeps them: most may be of one class.
    """
    random = numpy_stream(seed, "normal", "choice")
    order = random.permutation(len(examples))[:MOST]
    classes = np.array_split(random.permutation(len(examples.classes)), FOLDS)
    for fold in range(FOLDS):
        inside, train = np.sort(order[fold::FOLDS]), np.setdiff1d(order, order[fold::FOLDS])
        parts = [examples.part(rows) for rows in (train, inside)]
        found = {}
        if len(examples.classes) >= FOLDS and examples.labels is not None:
            kept = np.setdiff1d(np.arange(len(examples.classes)), classes[fold])
            fewer = [part.of_classes(kept) for part in parts]
            if min(map(len, fewer)) >= FEWEST:
                away = order[~np.isin(examples.labels[order], kept)]
                found[LEFT_OUT] = examples.part(np.sort(away)).without_labels(kept)
                inside, parts = inside[np.isin(examples.labels[inside], kept)], fewer
        if (rows := np.isin(of, inside)).any():
            found[DISTORTED] = Examples(distorted[rows], classes=parts[0].classes, name=DISTORTED)
        yield _Fold(parts[0], parts[1], found)


def _best(grid: Grid, folds: list[_Fold], seed: int, device: str) -> tuple[dict[str, Held], dict[str, Any]]:
    """Return the scores and the settings of the first best candidate of each detector.

    A detector of which no candidate is possible is missing. Raises InputError if all are.
    """
    heads = [fold.train.head() for fold in folds]
    held: dict[str, Held] = {}
    settings: dict[str, Any] = {}
    failure = InputError("there is no detector to choose")
    for name, options in tqdm(grid.items(), desc="choose", unit="detector", disable=None):
        pairs = zip(folds, heads, strict=True)
        tries = [_Try(fold, fold.train.outputs(head), head, {}) for fold, head in pairs]
        tried: dict[int, Held] = {}
        for place, option in enumerate(options):
            try:
                tried[place] = _tried(name, _settings(name, option), tries, seed, device)
            except InputError as error:
                failure = error
        if tried:
            best = first_best(tried)
            held[name], settings[name] = tried[best], _settings(name, options[best])
    if not held:
        raise failure
    return held, settings


@dataclass(frozen=True)
class _Try:
    """A fold with the outputs to fit to, the head that they come from, and what settings share."""

    fold: _Fold
    train: Outputs
    head: Head | None
    gathered: dict


def _tried(name: str, settings: Any, tries: list[_Try], seed: int, device: str) -> Held:
    """Return the scores of a candidate over all folds, in each on the scale of its held-out examples."""
    inside: list[np.ndarray] = []
    outside: dict[str, list[np.ndarray]] = {}
    for one in tries:
        detector = fitted(name, settings, one.train, seed, device, one.gathered)
        scores = detector.score(one.fold.inside.outputs(one.head))
        centre, spread = scores.mean(), scores.std()
        if not spread > 0:
            raise InputError(f"{name} gives all {len(scores)} held-out examples one score")
        inside.append((scores - centre) / spread)
        for key, some in one.fold.outside.items():
            outside.setdefault(key, []).append((detector.score(some.outputs(one.head)) - centre) / spread)
    return Held(np.concatenate(inside), {key: np.concatenate(some) for key, some in outside.items()})


def fitted(
    name: str, settings: Any, train: Outputs, seed: int, device: str, gathered: dict | None = None
) -> Detector:
    """Return a detector fitted to `train`; gathered: sums that one of other settings may have left there."""
    detector = make_detector(name, settings, seed=seed, device=device)
    assert isinstance(detector, Detector)
    if isinstance(detector, Streaming):
        detector.gathered = gathered
    detector.fit(train)
    if isinstance(detector, Streaming):
        detector.gathered = None
    return detector
