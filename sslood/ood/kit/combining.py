"""One score from those of several detectors, whose scales have nothing in common."""

from collections.abc import Mapping
from math import ceil
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from sslood.core.errors import InputError

Combination = Literal["sum", "fisher", "simes", "cauchy"]
TINY = torch.finfo(torch.float64).tiny


class Combiner(nn.Module):
    """The score that several detectors give together: float64 [N, m] -> [N], larger = more OOD.

    - sum: of the scores standardised by mean and standard deviation over ID references;
    - fisher, simes, cauchy: -log of the combined p-value, in nats, by `tail_p_values` among the references.

    references: detector -> scores [n] of ID images, in the order of the columns. The result is a score, not a
    p-value: it has no guarantee until it is calibrated on images that are not among the references.
    By operations that torch can trace. Raises InputError if a detector's references are all equal, for a sum.
    """

    def __init__(self, references: Mapping[str, np.ndarray], by: Combination):
        super().__init__()
        self.by, self.names = by, list(references)
        for place, (name, scores) in enumerate(references.items()):
            kept = standard(scores, name) if by == "sum" else np.sort(np.asarray(scores, np.float64))
            self.register_buffer(f"reference{place}", torch.from_numpy(kept))

    def forward(self, scores: Tensor) -> Tensor:
        kept = dict(self.named_buffers())
        columns = [(kept[f"reference{place}"], scores[:, place]) for place in range(len(self.names))]
        if self.by == "sum":
            return torch.stack([(column - own[0]) / own[1] for own, column in columns]).sum(0)
        return evidence(torch.stack([tail_p_values(own, column) for own, column in columns]), self.by)

    def score(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return float64 [N] from the finite scores [N] of each detector."""
        columns = np.stack([np.asarray(scores[name], np.float64) for name in self.names], 1)
        with torch.inference_mode():
            return self(torch.from_numpy(columns)).numpy()


def standard(scores: np.ndarray, name: str) -> np.ndarray:
    """Return [mean, standard deviation] of a detector's ID scores; InputError if all are equal."""
    mean, deviation = float(np.mean(scores, dtype=np.float64)), float(np.std(scores, dtype=np.float64))
    if not np.ptp(scores) > 0 or not np.isfinite(deviation) or not deviation > 0:
        raise InputError(
            f"the scores of {name} are the same for all {len(scores)} ID images that would put them on one "
            "scale with others; leave it out of the combination"
        )
    return np.array([mean, deviation])


def tail_p_values(reference: Tensor, scores: Tensor) -> Tensor:
    """Return (1/2 + number of reference scores at or above) / (n + 1) for each score: float64 [N].

    reference: ascending, [n]. Beyond the largest of them, where counting no longer separates images, it falls
    as 1 / (1 + excess / scale), with the mean excess of the upper tenth of the reference as scale (ours).
    These are not conformal p-values: a score made of them needs a calibration of its own. Never 0 and never
    1, which would outvote all others of a combination.
    """
    count = len(reference)
    if torch.compiler.is_exporting():  # ONNX has no searchsorted
        above = (reference >= scores[:, None]).sum(1).double()
    else:
        above = (count - torch.searchsorted(reference, scores.contiguous())).double()
    tail = reference[-min(count, max(2, ceil(count / 10))) :]
    scale = tail.mean() - tail[0]
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    excess = (scores - reference[-1]).clamp(min=0) / scale
    return ((0.5 + above) / (count + 1.0) / (1.0 + excess)).clamp(min=TINY)


def evidence(p: Tensor, by: Combination) -> Tensor:
    """Return -log of the combined p-value of m detectors, in nats: p-values [m, N] in (0, 1] -> float64 [N].

    - fisher: chi^2 of -2 sum log p with 2m degrees of freedom (Fisher, "Statistical Methods for Research
      Workers", 1932); exact for independent detectors only.
    - simes: min over i of m p_(i) / i (Simes, "An improved Bonferroni procedure for multiple tests of
      significance", 1986, doi:10.1093/biomet/73.3.751); valid for positively dependent ones, the usual case.
    - cauchy: mean of cot(pi p) against the Cauchy distribution (Liu and Xie, "Cauchy combination test", 2020,
      arXiv:1808.09011); nearly valid for small p under any dependence. If one p is 1, so is the result.

    Raises InputError for another method.
    """
    count = len(p)
    if by == "fisher":  # an even number of degrees of freedom: exp(-x) sum of x^k / k!, x = -sum log p
        total = -p.log().sum(0)
        term, terms = torch.ones_like(total), torch.ones_like(total)
        for k in range(1, count):
            term = term * total / k
            terms = terms + term
        return (total - terms.log()).clamp(min=0)
    if by == "simes":
        share = torch.arange(1, count + 1, dtype=p.dtype)[:, None] / count
        return (share.log() - p.sort(0).values.log()).amax(0).clamp(min=0)
    if by == "cauchy":
        cot = (1.0 / (torch.pi * p).tan() / count).sum(0)
        return -(torch.atan2(torch.ones_like(cot), cot) / torch.pi).log()
    raise InputError(f"unknown combination {by!r}; known: sum, fisher, simes, cauchy")
