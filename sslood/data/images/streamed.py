"""An image set too large for the device: batches are read from its file by threads, ahead of time.

The file is one memory-mapped array of equal images, so a batch is rows of it: no decoding, and what the page
cache holds is not read again. Order and content of the batches are those of a `ResidentSet`, and the
augmentation is the same code on the device: which of the two serves a run does not change its result.

SSLOOD_RESIDENT_GB  images of a training set up to this size live on the device (default: half of what is
                    free on a CUDA device; elsewhere no limit, since the file itself is used)
SSLOOD_WORKERS      threads that read ahead (default: 4, and at most one a core)
"""

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from sslood.core.errors import InputError
from sslood.data.images.resident import ImageSet, ResidentSet

AHEAD = 2  # batches that each thread may be ahead: what a slow read may cost before the device waits


class StreamedSet(ImageSet):
    """A set whose images stay where they are; `workers` threads bring batches of it to the device."""

    def __init__(
        self,
        images: np.ndarray | Tensor,
        labels: np.ndarray | Tensor,
        device: torch.device | str,
        workers: int,
    ):
        super().__init__(images, labels, device)
        self.workers, self.truth = workers, torch.as_tensor(labels)

    @property
    def order_device(self) -> torch.device:
        """The CPU, where the threads read: an index that came back from a GPU would wait for all its work."""
        return self.truth.device

    def batches(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images [B, C, H, W], labels [B]) on the device for each index tensor [B], in their order."""
        with ThreadPoolExecutor(self.workers) as pool:
            waiting: deque[Future[list[Tensor]]] = deque()
            for index in indices:
                waiting.append(pool.submit(self._read, index.cpu()))
                if len(waiting) > AHEAD * self.workers:
                    yield self._on_device(waiting.popleft())
            while waiting:
                yield self._on_device(waiting.popleft())

    def _read(self, index: Tensor) -> list[Tensor]:
        """Return images and labels of an index [B] in memory, pinned where a CUDA device will copy them."""
        pinned, read = self.device.type == "cuda", []
        for source in (self.images, self.truth):
            rows = torch.empty((len(index), *source.shape[1:]), dtype=source.dtype, pin_memory=pinned)
            read.append(torch.index_select(source, 0, index, out=rows))
        return read

    def _on_device(self, read: Future[list[Tensor]]) -> tuple[Tensor, Tensor]:
        images, labels = (rows.to(self.device, non_blocking=True) for rows in read.result())
        return images, labels

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """Yield the images on the device from first to last, at most `batch_size` at a time."""
        for images, _ in self.batches(torch.arange(len(self)).split(batch_size)):
            yield images


def open_set(images: np.ndarray, labels: np.ndarray, device: torch.device) -> ResidentSet | StreamedSet:
    """Return the images [N, C, H, W] as a set on the device if they fit there, else as a streamed one.

    Raises InputError for an environment variable that holds no number in its range.
    """
    if images.nbytes <= _resident_bytes(device):
        return ResidentSet(images, labels, device)
    return StreamedSet(images, labels, device, _workers())


def _resident_bytes(device: torch.device) -> float:
    text = os.environ.get("SSLOOD_RESIDENT_GB")
    if text is None:
        return torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else math.inf
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise InputError(f"environment variable SSLOOD_RESIDENT_GB must be at least 0, found {text!r}")
    return limit * 1e9


def _workers() -> int:
    text = os.environ.get("SSLOOD_WORKERS", str(min(4, os.cpu_count() or 1)))
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"environment variable SSLOOD_WORKERS must be at least 1, found {text!r}")
    return int(text)
