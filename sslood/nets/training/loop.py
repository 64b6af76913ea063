"""The loop over the epochs of a run: resume, progress, curves, and a clear message when it has to stop."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from tqdm import tqdm

from sslood.core.errors import InputError, out_of_memory
from sslood.core.seeding import stream_seed
from sslood.nets.training.checkpoint import Checkpoint
from sslood.nets.training.ranks import rank

SAVE_SECONDS = 60.0  # a crash loses at most about this much, whatever `save_every` says
FIRST, TIMED = 5, 20  # batches that warm up, and batches from which the time left is estimated
WORTH = 60.0  # seconds left that are worth a line


class Stateful(Protocol):
    """Modules, optimisers, and whatever else a run must restore to go on."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


def _copied(value: Any) -> Any:
    """Return a deep copy of nested dicts, lists and tensors."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value


def _snapshot(state: Mapping[str, Stateful], curves: list[dict[str, float]]) -> dict[str, Any]:
    parts = {name: _copied(part.state_dict()) for name, part in state.items()}
    return {"parts": parts, "curves": [dict(row) for row in curves]}


def _resume(state: Mapping[str, Stateful], checkpoint: Checkpoint | None) -> list[dict[str, float]]:
    """Load the checkpoint into `state`; return the curves so far."""
    saved = checkpoint.load() if checkpoint else None
    if saved is None:
        return []
    for name, part in state.items():
        part.load_state_dict(saved["parts"][name])
    return saved["curves"]


def check_finite(label: str, epoch: int, row: Mapping[str, float]) -> None:
    """Raise InputError naming the epoch (counted from 1) and the first term that is not a number."""
    for term, value in row.items():
        if not math.isfinite(value):
            raise InputError(
                f"{label}: {term} became {value} in epoch {epoch + 1}; "
                "lower the learning rate or lengthen the warm-up"
            )


def seed_layers(seed: int, epoch: int, device: torch.device) -> None:
    """Give layers that draw (dropout) a stream per epoch, so that a resumed run draws the same numbers.

    They use torch's default generators, which nothing else in a run does. Each rank has its own stream.
    """
    value = stream_seed(seed, "layers", epoch, *([rank()] if rank() else []))
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(value)


class _Bar(tqdm):
    """A progress bar that, without a terminal to draw on, prints once how long the run will take.

    The first batches, which compile and warm up, do not count.
    """

    def __init__(self, label: str, silent: bool, **options: Any):
        super().__init__(desc=label, unit="img", disable=silent or None, **options)
        self.label, self.estimates = label, self.disable and not silent
        self.at = self.before = self.n  # tqdm does not count while it is disabled
        self.batches, self.started = 0, 0.0

    def update(self, n: float | None = 1) -> bool | None:
        n = n or 0
        self.batches, self.at = self.batches + (n > 0), self.at + n
        if n and self.batches == FIRST:
            self.before, self.started = self.at, time.monotonic()
        elif n and self.estimates and self.batches == FIRST + TIMED:
            rate = (self.at - self.before) / max(time.monotonic() - self.started, 1e-9)
            seconds = ((self.total or 0) - self.at) / rate
            if seconds >= WORTH:
                left = f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
                print(f"{self.label}: {rate:,.0f} img/s, about {left} to go", file=sys.stderr)
        return super().update(n)


def _reason(error: Exception, memory: str) -> str:
    """Return what to say of an error of torch that settings are to blame for, "" for any other."""
    if isinstance(error, RuntimeError) and out_of_memory(error):
        return f"out of memory; {memory}"
    if str(error).startswith("Expected more than 1 value per channel"):
        return (
            "a batch holds one image whose last maps are a single pixel, of which batch norm has no "
            "statistics; use batches of at least 2 images, of outliers too"
        )
    return ""


def run_epochs(
    label: str,
    *,
    epochs: int,
    epoch_step: Callable[[int, tqdm], Mapping[str, float]],
    state: Mapping[str, Stateful],
    checkpoint: Checkpoint | None,
    save_every: int = 1,
    items: int = 1,
    memory: str = "use a smaller batch_size",
    silent: bool = False,
) -> list[dict[str, float]]:
    """Run `epoch_step(epoch, bar)` for the remaining epochs; return one row of curves per epoch.

    `state` is what a resumed run restores. All randomness of an epoch must follow from its number
    (`stream_seed(seed, name, epoch)`): then a resumed run equals an uninterrupted one, byte for byte
    on a CPU. The state of the last finished epoch is saved every `save_every` epochs, when a minute
    has passed since the last time, after the last epoch, and on Ctrl-C or SIGTERM.
    `items` is the number of samples in an epoch: `epoch_step` may call `bar.update(n)` after a batch.
    `memory` is the advice given when memory runs out; `silent` turns the progress off.
    Raises InputError when a value of a row is NaN or infinite, memory runs out, or a batch holds one image
    where batch norm needs two.
    """
    curves = _resume(state, checkpoint)
    if curves and checkpoint and not silent:
        print(f"{label}: going on after epoch {len(curves)} of {epochs}, {checkpoint.path}", file=sys.stderr)
    latest: dict[str, Any] = {}
    saved_at, unsaved = time.monotonic(), False
    total = epochs * items
    try:
        with _Bar(label, silent, total=total, initial=len(curves) * items) as bar:
            for epoch in range(len(curves), epochs):
                row = {name: float(value) for name, value in epoch_step(epoch, bar).items()}
                check_finite(label, epoch, row)
                curves.append(row)
                bar.update((epoch + 1) * items - bar.at)
                shown = list(row.items())[:3]
                bar.set_postfix({name: f"{value:.4g}" for name, value in shown}, refresh=False)
                if checkpoint is None:
                    continue
                latest, unsaved = _snapshot(state, curves), True
                late = time.monotonic() - saved_at >= SAVE_SECONDS
                if late or (epoch + 1) % save_every == 0 or epoch + 1 == epochs:
                    checkpoint.save(latest)
                    saved_at, unsaved = time.monotonic(), False
    except KeyboardInterrupt:
        if checkpoint and unsaved:
            checkpoint.save(latest)
        raise
    except (RuntimeError, ValueError) as error:
        if not (why := _reason(error, memory)):
            raise
        raise InputError(f"{label}: {why}") from error
    return curves
