"""Rounding away what depends on the processor, so that equal work gives equal bytes on every machine.

Sums in float64 agree between processors to about 1e-13 of their terms. A value stored with fewer digits is
the same everywhere unless it lies within that distance of a rounding boundary; with b binary digits kept, the
chance of that is about 2^b times the relative noise. Measured between AVX2 and generic kernels after the
quickstart's trainings: weights and features differ by about 1e-13, scores by 3e-9 at worst (ViM cancels).
"""

import numpy as np

GRID = 18  # binary digits of weights and features, from the largest of their array: 4e-6 of it
SCORE = 18  # significant binary digits of a score: 4e-6 of it


def on_grid(values: np.ndarray, digits: int = GRID) -> np.ndarray:
    """Return floats rounded to multiples of 2^-digits times the power of two above their largest magnitude.

    One grid for the whole array: the noise of a small weight or feature is that of the large ones that it was
    computed with. Same shape and dtype; exact in float32 up to 24 digits. NaN and infinities stay.
    """
    values = np.asarray(values)
    finite = np.abs(values[np.isfinite(values)])
    if not finite.size or not finite.max():
        return values
    exponent = int(np.frexp(np.float64(finite.max()))[1])
    return np.ldexp(
        np.rint(np.ldexp(values.astype(np.float64), digits - exponent)), exponent - digits
    ).astype(values.dtype)


def significant(values: np.ndarray, digits: int = SCORE) -> np.ndarray:
    """Return floats with `digits` significant binary digits each. Same shape and dtype."""
    values = np.asarray(values)
    mantissa, exponent = np.frexp(values.astype(np.float64))
    return np.ldexp(np.rint(np.ldexp(mantissa, digits)), exponent - digits).astype(values.dtype)


def decimal(value: float, digits: int = 6) -> float:
    """Return a number with `digits` significant decimal digits, for metadata and tables."""
    return float(f"{value:.{digits - 1}e}")
