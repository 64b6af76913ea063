"""Schedules as pure functions of the step: nothing to save, nothing to restore, easy to plot and to test."""

import math

from sslood.core.errors import InputError, known

KINDS = ("constant", "cosine", "linear", "steps")


def linear_between(start: float, end: float, share: float) -> float:
    """Return start + (end - start) share, for a share in [0, 1]."""
    return start + (end - start) * share


def cosine_between(start: float, end: float, step: int, steps: int) -> float:
    """Return the half cosine from `start` at step 0 to `end` at step `steps`.

    Of a learning rate without restarts (Loshchilov & Hutter 2017, "SGDR", arXiv:1608.03983, eq. 5), and of
    the momentum of a teacher (Grill et al. 2020, "Bootstrap your own latent", arXiv:2006.07733).
    """
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))


def learning_rate(
    kind: str, step: int, steps: int, *, base: float, warmup: int = 0, final: float = 0.0
) -> float:
    """Return the learning rate of step `step` in [0, steps).

    1. `warmup` steps rise linearly to `base`: step s has base (s + 1) / warmup.
    2. "cosine" falls from `base` towards `final`, which the step after the last one would have.
    3. "linear" falls there in equal steps.
    4. "steps" divides `base` by 10 after one half and again after three quarters of the run, warm-up
       included (He et al. 2016, "Deep residual learning", arXiv:1512.03385, section 4.2).
    5. "constant" stays at `base`.

    Raises InputError for an unknown kind, or a warm-up that is longer than the run.
    """
    known(kind, "schedule", KINDS)
    if warmup > steps:
        raise InputError(f"the warm-up of {warmup} steps is longer than the run of {steps}; shorten it")
    if step < warmup:
        return base * (step + 1) / warmup
    if kind == "cosine":
        return cosine_between(base, final, step - warmup, steps - warmup)
    if kind == "linear":
        return linear_between(base, final, (step - warmup) / max(1, steps - warmup))
    if kind == "steps":
        return base * 0.1 ** ((2 * step >= steps) + (4 * step >= 3 * steps))
    return base
