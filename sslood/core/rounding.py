"""Rounding away what depends on the processor, so that equal work gives equal bytes on every machine.

Sums in float64 agree between processors to about 1e-13 of their terms. A value stored with fewer digits is
the same everywhere unless it lies within that distance of a rounding boundary; with b binary digits kept, the
chance of that is about 2^b times the relative noise. Measured between AVX2 and generic kernels after the
quickstart's trainings: weights and features differ by about 1e-13, scores by 3e-9 at worst (ViM cancels).
"""

import numpy as np

GRID = 18  # binary digits of weights and features, from the largest of their array: 4e-6 of it


def to_multiples(values: np.ndarray, scale: np.ndarray | float, digits: int) -> np.ndarray:
    """Return values rounded to multiples of 2^-digits times the power of two above `scale`, in float64.

    Infinities and NaN come out as NaN or as they are; the caller decides what they mean.
    """
    with np.errstate(invalid="ignore"):
        exponent = np.frexp(np.asarray(scale, np.float64))[1] - digits
        return np.ldexp(np.rint(np.ldexp(np.asarray(values, np.float64), -exponent)), exponent)


def on_grid(values: np.ndarray, digits: int = GRID) -> np.ndarray:
    """Return floats rounded to multiples of 2^-digits times the power of two above their largest magnitude.

    One grid for the whole array: the noise of a small weight or feature is that of the large ones that it was
    computed with. Same shape and dtype; exact in float32 up to 24 digits. NaN and infinities stay.
    """
    values = np.asarray(values)
    finite = np.abs(values[np.isfinite(values)])
    if not finite.size or not finite.max():
        return values
    return to_multiples(values, finite.max(), digits).astype(values.dtype)


def decimal(value: float, digits: int = 6) -> float:
    """Return a number with `digits` significant decimal digits, for metadata and tables."""
    return float(f"{value:.{digits - 1}e}")
