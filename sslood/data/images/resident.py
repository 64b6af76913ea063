"""An image set kept on the device: no loader, no workers, no copies while training."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from sslood.core.errors import InputError
from sslood.core.seeding import stream_seed


class ImageSet:
    """Images uint8 [N, C, H, W] and labels int64 [N] for a device, and the order of their batches."""

    def __init__(
        self, images: np.ndarray | torch.Tensor, labels: np.ndarray | torch.Tensor, device: torch.device | str
    ):
        if len(images) != len(labels):
            raise InputError(f"{len(images)} images but {len(labels)} labels; write the set again")
        self.images = torch.as_tensor(images)
        self.labels = torch.as_tensor(labels).to(device)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """The device that gets the images."""
        return self.labels.device

    @property
    def order_device(self) -> torch.device:
        """The device that picks the images of a batch, and holds the indices."""
        return self.device

    def steps(self, batch_size: int, *, drop_last: bool = True) -> int:
        """Return the number of batches in an epoch; InputError if not even one fits."""
        if batch_size < 1 or (drop_last and batch_size > len(self)):
            raise InputError(f"batch_size is {batch_size}, but the set has {len(self)} images; lower it")
        return len(self) // batch_size if drop_last else -(-len(self) // batch_size)

    def epoch_batches(
        self, seed: int, epoch: int, batch_size: int, *, drop_last: bool = True
    ) -> Iterator[torch.Tensor]:
        """Yield the index tensors [B] of an epoch's batches, shuffled by the stream ("order", epoch).

        The permutation is drawn on the CPU, so the order is the same on every device.
        """
        generator = torch.Generator().manual_seed(stream_seed(seed, "order", epoch))
        order = torch.randperm(len(self), generator=generator).to(self.order_device)
        for step in range(self.steps(batch_size, drop_last=drop_last)):
            yield order[step * batch_size : (step + 1) * batch_size]


class ResidentSet(ImageSet):
    """A set that is on the device as a whole."""

    def __init__(
        self, images: np.ndarray | torch.Tensor, labels: np.ndarray | torch.Tensor, device: torch.device | str
    ):
        super().__init__(images, labels, device)
        self.images = self.images.to(device)

    def batches(self, indices: Iterable[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (images [B, C, H, W], labels [B]) on the device for each index tensor [B]."""
        for index in indices:
            yield self.images[index], self.labels[index]

    def in_order(self, batch_size: int) -> Iterator[torch.Tensor]:
        """Yield the images on the device from first to last, at most `batch_size` at a time."""
        yield from self.images.split(batch_size)
