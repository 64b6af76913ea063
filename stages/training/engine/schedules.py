"""Schedules as pure functions of the step: nothing to save, nothing to restore, easy to plot and to test."""

import math
from collections.abc import Sequence

from stages.core.errors import InputError, known

KINDS = ("constant", "cosine", "steps")


def learning_rate(
    kind: str,
    step: int,
    steps: int,
    *,
    base: float,
    warmup: int = 0,
    final: float = 0.0,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
) -> float:
    """Return the learning rate of step `step` in [0, steps).

    `warmup` steps rise linearly to `base` (step s has base * (s + 1) / warmup). After them:
    "constant" stays at `base`; "cosine" falls from `base` towards `final`, which the step after the
    last one would reach (Loshchilov & Hutter 2017, eq. 5); "steps" multiplies by `gamma` at each of
    `milestones` (step numbers, counted from the start of the run). Raises InputError for an unknown
    kind or a warm-up longer than the run.
    """
    known(kind, "schedule", KINDS)
    if warmup > steps:
        raise InputError(f"the warm-up of {warmup} steps is longer than the run of {steps}; shorten it")
    if step < warmup:
        return base * (step + 1) / warmup
    if kind == "cosine":
        share = (step - warmup) / max(1, steps - warmup)
        return final + (base - final) * 0.5 * (1 + math.cos(math.pi * share))
    if kind == "steps":
        return base * gamma ** sum(step >= milestone for milestone in milestones)
    return base
