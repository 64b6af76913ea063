"""Schedules as pure functions of the step: nothing to save, nothing to restore, easy to plot and to test."""

import math
from collections.abc import Sequence

from sslood.core.errors import InputError, known

KINDS = ("constant", "cosine", "steps", "one_cycle", "restarts")
_RISE, _START, _END = 0.3, 25.0, 1e4  # one cycle: share of the run that rises, base / first, first / last


def linear_between(start: float, end: float, share: float) -> float:
    """Return start + (end - start) share, for a share in [0, 1]."""
    return start + (end - start) * share


def cosine_between(start: float, end: float, step: int, steps: int) -> float:
    """Return the half cosine from `start` at step 0 to `end` at step `steps` (Loshchilov & Hutter 2017).

    For learning rate, weight decay, temperature, and the momentum of a teacher (Grill et al. 2020).
    """
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))


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
    cycle: int = 0,
    growth: int = 1,
) -> float:
    """Return the learning rate of step `step` in [0, steps).

    `warmup` steps rise linearly to `base` (step s has base * (s + 1) / warmup). After them:
    "constant" stays at `base`; "cosine" falls from `base` towards `final`, which the step after the
    last one would reach (Loshchilov & Hutter 2017, eq. 5); "steps" multiplies by `gamma` at each of
    `milestones` (step numbers, counted from the start of the run); "restarts" repeats the cosine, first
    over `cycle` steps, each time over `growth` times as many (their SGDR; 0 = the whole run); "one_cycle"
    rises, without a warm-up, by a half cosine from base / 25 over the first 30 % and falls by another to
    base / 250,000, which the last step has (Smith & Topin 2018). Raises InputError for an unknown kind or
    constants that make no schedule.
    """
    known(kind, "schedule", KINDS)
    if warmup > steps:
        raise InputError(f"the warm-up of {warmup} steps is longer than the run of {steps}; shorten it")
    if cycle < 0 or growth < 1:
        raise InputError(f"restarts: cycle is {cycle} and growth {growth}; use at least 0 and 1")
    if kind == "one_cycle" and warmup:
        raise InputError("one_cycle begins with a warm-up of its own; set warmup_epochs to 0")
    if step < warmup:
        return base * (step + 1) / warmup
    past, left = step - warmup, steps - warmup
    if kind == "cosine":
        return cosine_between(base, final, past, left)
    if kind == "steps":
        return base * gamma ** sum(step >= milestone for milestone in milestones)
    if kind == "restarts":
        return cosine_between(base, final, *_in_cycle(past, cycle or left, growth))
    if kind == "one_cycle":
        return _one_cycle(past, left, base)
    return base


def _in_cycle(step: int, cycle: int, growth: int) -> tuple[int, int]:
    """Return (step since the last restart, length of the present cycle)."""
    while step >= cycle:
        step, cycle = step - cycle, cycle * growth
    return step, cycle


def _one_cycle(step: int, steps: int, base: float) -> float:
    first = base / _START
    top = _RISE * steps - 1  # the step that has `base`, in general between two
    if step <= top:
        return first + (base - first) * 0.5 * (1 - math.cos(math.pi * step / top))
    share = (step - top) / (steps - 1 - top) if steps - 1 > top else 1.0
    last = first / _END
    return last + (base - last) * 0.5 * (1 + math.cos(math.pi * share))
