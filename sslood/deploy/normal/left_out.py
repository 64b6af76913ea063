"""What would have been called OOD of known bad examples, had each not been known itself."""

from collections.abc import Iterator, Mapping

import numpy as np

from sslood.core.rows import unit_rows
from sslood.deploy.calibrated import Calibrated
from sslood.deploy.catches import Catch
from sslood.deploy.inputs import Inputs
from sslood.deploy.normal.examples import Examples
from sslood.ood.kit.combining import Combiner
from sslood.ood.kit.outputs import Head, Outputs, chunks
from sslood.ood.measures.conformal import conformal_threshold

KNOWN = "known_bad"


def together(references: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the sum [N] of standardised scores, or those of the only detector."""
    if len(scores) == 1:
        return next(iter(scores.values()))
    return Combiner({name: references[name] for name in scores}, "sum").score(scores)


def left_out(
    found: Calibrated, taught: Outputs, held: Outputs, known: Mapping[str, Examples], head: Head | None
) -> Iterator[Catch]:
    """Yield for each kind of known bad examples the share that is called OOD, each left out in turn.

    Whatever depends on the one left out is made again: the nearness to the others, its scale, and the
    threshold. Of a single one only the other detectors are left. taught, held: outputs of the normal
    examples.
    """
    bank = np.concatenate([one.features for one in known.values()])
    of_taught, of_calibration = (_Nearest(bank, part.need("features")) for part in (taught, held))
    others = {name: one for name, one in found.detectors.items() if name != KNOWN}
    of_held = {name: Inputs(held).score(one) for name, one in others.items()}
    between, place = _Nearest(bank, bank), 0
    for kind, examples in known.items():
        outputs, caught = Inputs(examples.outputs(head)), 0
        places = found.places(outputs)
        of_kind = {name: outputs.score(one) for name, one in others.items()}
        for row in range(len(examples)):
            references, calibration = dict(found.references), dict(of_held)
            scores = {name: values[row : row + 1] for name, values in of_kind.items()}
            if len(bank) > 1:
                references[KNOWN] = of_taught.without(place)
                calibration[KNOWN] = of_calibration.without(place)
                scores[KNOWN] = between.without(place)[place : place + 1]
            summed = together(references, calibration)
            if places is not None:  # the predicted class has a threshold of its own
                summed = summed[Inputs(held).predicted() == places[row]]
            threshold = conformal_threshold(summed, found.threshold.alpha)
            caught += int(together(references, scores)[0] > threshold.value)
            place += 1
        yield Catch(kind, "near", len(examples), caught / len(examples))


class _Nearest:
    """Nearness of examples [N, D] to known bad ones [B, D], also where one of these is left out."""

    def __init__(self, bank: np.ndarray, rows: np.ndarray):
        self.first, self.second = np.empty((2, len(rows)))
        self.place, start = np.empty(len(rows), np.int64), 0
        unit = unit_rows(bank.astype(np.float64))
        for piece in chunks(rows, 256):
            part, own = slice(start, start + len(piece)), unit_rows(piece.astype(np.float64))
            cosines = own @ unit.T
            self.place[part] = cosines.argmax(1)
            self.first[part] = self._score(own, unit[self.place[part]])
            cosines[np.arange(len(own)), self.place[part]] = -np.inf
            self.second[part] = self._score(own, unit[cosines.argmax(1)])
            start += len(piece)

    @staticmethod
    def _score(rows: np.ndarray, nearest: np.ndarray) -> np.ndarray:
        return -np.sqrt(((rows - nearest) ** 2).sum(1))

    def without(self, place: int) -> np.ndarray:
        """Return the scores [N] of `known_bad`, the known bad example at `place` left out."""
        return np.where(self.place == place, self.second, self.first)
