"""Training images that no disk holds: chunks in an object store (or a folder), streamed by litdata.

The set file then holds validation images, labels and metadata; `stream` in the metadata says where the
training images are, and how many are an epoch: what a checkpoint must not lose more than. Which images an
epoch shows, and in which order, is a function of the run's seed and the epoch's number alone: a pass over all
images has an order of its own, and epochs are consecutive parts of it, so litdata takes up a pass in its
middle. A resumed run therefore equals an uninterrupted one, as with every other set.

SSLOOD_STREAM     folder or address of the chunks, instead of the one in the set file
SSLOOD_CHUNKS     folder where chunks of a store are kept (default: litdata's)
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from sslood.core.errors import InputError, as_line
from sslood.core.seeding import stream_seed
from sslood.core.settings import Settings, at_least, strict
from sslood.data.images.resident import ResidentSet
from sslood.data.images.streamed import AHEAD, StreamedSet, open_set

SAMPLE = 50_000  # images that `in_order` shows: features of all would fill the memory
NEEDED = "pip install -r requirements-scale.txt` (or `pip install 'sslood[scale]'"
_SEEDS = 2**31


@dataclass(frozen=True)
class StreamSettings(Settings):
    """Where the training images of a set are."""

    address: Annotated[str, "folder or address of the chunks"]
    images: Annotated[int, at_least(1), "number of images in the chunks"]
    epoch: Annotated[int, at_least(1), "images of an epoch; a pass over all may have several"]


def open_split(
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    split: str,
    device: torch.device,
    where: str,
) -> ResidentSet | StreamedSet:
    """Return a split of the set file `where`: its images, or for `train` the chunks that its metadata names.

    Raises InputError as `open_set` and `ChunkedSet`.
    """
    if split != "train" or "stream" not in metadata:
        return open_set(tensors[f"{split}.images"], tensors[f"{split}.labels"], device)
    stream = strict(StreamSettings, metadata["stream"], f"{where}: stream")
    shape = (metadata["channels"], metadata["size"], metadata["size"])
    return ChunkedSet(stream, shape, tensors["train.labels"][:SAMPLE], device)


class ChunkedSet(StreamedSet):
    """Images [C, H, W] of chunks, of which an epoch shows `stream.epoch`; one process reads them.

    labels [n]: of the first n = min(images, SAMPLE), which `in_order` shows. Raises InputError if litdata is
    not installed, if there are no such chunks, or another number of images in them.
    """

    def __init__(
        self,
        stream: StreamSettings,
        shape: tuple[int, ...],
        labels: np.ndarray | Tensor,
        device: torch.device | str,
    ):
        self.stream, self.shape = stream, shape
        self.address = os.environ.get("SSLOOD_STREAM", stream.address)
        self.truth = torch.as_tensor(np.array(labels))
        self.labels = self.truth.to(device)
        self.at: tuple[int, int] | None = None
        found = len(self._dataset(0, shuffled=False))
        if found != stream.images:
            raise InputError(
                f"{self.address}: holds {found} images, the set file says {stream.images}; copy them again"
            )

    def __len__(self) -> int:
        return min(self.stream.epoch, self.stream.images)

    def epoch_batches(
        self, seed: int, epoch: int, batch_size: int, *, drop_last: bool = True
    ) -> Iterator[Tensor]:
        """Yield the positions [B] in the epoch of each batch's images; `batches` reads them in this order.

        InputError if several processes train: they would read the same images.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            if torch.distributed.get_world_size() > 1:
                raise InputError(f"{self.address}: a streamed training set is read by one process; start one")
        self.at = seed, epoch
        count = self.steps(batch_size, drop_last=drop_last) * batch_size
        yield from torch.arange(min(count, len(self))).split(batch_size)

    def batches(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images [B, C, H, W], labels [B]) on the device for each tensor of consecutive positions."""
        source: Iterator[Any] | None = None
        with ThreadPoolExecutor(1) as pool:
            waiting: deque[Future[list[Tensor]]] = deque()
            for index in indices:
                if source is None:
                    source = self._from(int(index[0]))
                waiting.append(pool.submit(self._take, source, len(index)))
                if len(waiting) > AHEAD:
                    yield self._on_device(waiting.popleft())
            while waiting:
                yield self._on_device(waiting.popleft())

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """Yield the first images, SAMPLE at most, on the device, at most `batch_size` at a time."""
        source, left = iter(self._dataset(0, shuffled=False)), len(self.truth)
        while left:
            count = min(batch_size, left)
            yield self._take(source, count)[0].to(self.device)
            left -= count

    def _from(self, position: int) -> Iterator[Any]:
        """Yield the samples of the present epoch from a position on, and those of the next pass after it."""
        if self.at is None:
            raise TypeError("positions are those of `epoch_batches`, which has not been called")
        seed, epoch = self.at
        start = epoch * len(self) + position
        while True:
            turn, seen = divmod(start, self.stream.images)
            dataset = self._dataset(stream_seed(seed, "order", turn) % _SEEDS, shuffled=True)
            if seen:
                dataset.load_state_dict(dataset.state_dict(seen, 1, 1))
            for sample in dataset:
                yield sample
                start += 1

    def _dataset(self, seed: int, *, shuffled: bool) -> Any:
        if find_spec("litdata") is None:
            raise InputError(f"{self.address}: streaming needs the package litdata; run `{NEEDED}`")
        os.environ.setdefault("DISABLE_VERSION_CHECK", "1")  # it would ask the network
        from litdata import StreamingDataset

        folder = os.environ.get("SSLOOD_CHUNKS")
        try:
            dataset = StreamingDataset(
                self.address, cache_dir=folder, shuffle=shuffled, seed=seed, item_shuffle_window="full"
            )
            dataset.set_batch_size(1)
            dataset.set_num_workers(1)
            len(dataset)
        except Exception as error:  # boto3, obstore and litdata have each their own
            raise InputError(f"{self.address}: no chunks can be read there ({as_line(error)})") from None
        return dataset

    def _take(self, source: Iterator[Any], count: int) -> list[Tensor]:
        pinned = self.device.type == "cuda"
        images = torch.empty((count, *self.shape), dtype=torch.uint8, pin_memory=pinned)
        labels = torch.empty(count, dtype=torch.int64, pin_memory=pinned)
        for row in range(count):
            sample = next(source)
            pixels = np.frombuffer(sample["image"], np.uint8)
            if pixels.size != images[0].numel():
                raise InputError(f"{self.address}: holds images of another size; pack them again")
            images[row] = torch.from_numpy(pixels.copy()).view(self.shape)
            labels[row] = sample["label"]
        return [images, labels]
