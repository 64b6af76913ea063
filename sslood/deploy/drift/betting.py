"""Evidence that a stream is no longer like its calibration images: capital won by betting on its p-values.

If the p-values are independent and uniform, no bet wins on average: the capital, 1 at the start, is a
martingale, and it ever reaches 1 / delta with a probability of at most delta (Ville's inequality). So an
alarm at 1 / delta is false with a probability of at most delta, however long the stream is watched and
however often it is looked at.

A bet multiplies its stake by e p^(e - 1), 0 < e < 1 (the power martingale of Vovk, Nouretdinov and Gammerman,
"Testing exchangeability on-line", ICML 2003), or by the same of 1 - p, for pictures that become too ordinary.
Staked at the start, it loses on a calm stream what a later change must win back first. So at every picture a
part of the capital that is not yet staked goes to each bet: the evidence is a mixture over bets and over the
pictures at which the change may have come, as in the procedure of Shiryaev and Roberts, but with weights that
sum to 1, which keeps it a martingale (ours; it finds the changes of `benchmarks/drift.py` sooner than the
mixture over e alone and than the Composite Jumper of Vovk et al., "Retrain or not retrain", COPA 2021).
"""

import math

import numpy as np

_EXPONENTS = (0.1, 0.25, 0.5, 0.75, 0.9)
# exponent, share of what is staked, whether on small p-values; changes toward OOD are what is looked for
BETS = tuple((e, 0.15, True) for e in _EXPONENTS) + tuple((e, 0.05, False) for e in _EXPONENTS)


def cash(images: int) -> float:
    """Return the capital that is not staked after so many images: 1 / (1 + log(1 + images))."""
    return 1.0 / (1.0 + math.log1p(images))


def density(p: np.ndarray, exponent: float | np.ndarray, low: bool | np.ndarray) -> np.ndarray:
    """Return the log of what a bet multiplies its stake by, for p-values inside (0, 1)."""
    return np.log(exponent) + (exponent - 1) * np.where(low, np.log(p), np.log1p(-p))


def bet(log_stakes: np.ndarray, p: np.ndarray, before: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (log stakes after p-values [..., N], log evidence [..., N] after each of them).

    log_stakes [..., bets]: natural logs of what the bets hold after the `before` images of the stream, -inf
    at its start. Leading axes are streams.
    """
    exponents, shares, low = (np.array(column) for column in zip(*BETS, strict=True))
    evidence = np.empty(p.shape)
    for place in range(p.shape[-1]):
        seen = before + place
        fresh = np.log((cash(seen) - cash(seen + 1)) * shares)
        factors = density(p[..., place, None], exponents, low)
        log_stakes = np.logaddexp(log_stakes, fresh) + factors
        evidence[..., place] = wealth(log_stakes, seen + 1)
    return log_stakes, evidence


def wealth(log_stakes: np.ndarray, images: int) -> np.ndarray:
    """Return the log of all capital [...] after so many images: what the bets hold, and the cash."""
    return np.logaddexp(math.log(cash(images)), np.logaddexp.reduce(log_stakes, axis=-1))
