"""What a frozen backbone makes of images, passed once: the head alone is trained on that."""

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from sslood.nets.methods.supervised import Supervised
from sslood.nets.training.ranks import ranks, share


class FrozenFeatures:
    """Features under one backbone that does not change, kept from when they are first asked for.

    Those of clean images are kept by the tensor of images, those of augmented views by the stream's name;
    both by the batch size too, which rounding and draws depend on.
    """

    def __init__(self) -> None:
        self._clean: list[tuple[Tensor, int, Tensor]] = []
        self._views: dict[tuple[str, int, int], Tensor] = {}

    def clean(self, images: Tensor, batch_size: int, make: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the features [N, D] of images [N, C, H, W], which `make` computes."""
        for known, size, features in self._clean:
            if known is images and size == batch_size:
                return features
        self._clean.append((images, batch_size, make(images)))
        return self._clean[-1][2]

    def views(self, stream: str, count: int, batch_size: int, make: Callable[[], Tensor]) -> Tensor:
        """Return the features [count, N, D] of views of each image of a set, which `make` computes."""
        key = (stream, count, batch_size)
        if key not in self._views:
            self._views[key] = make()
        return self._views[key]


def seen_views(task: Supervised, stream: str, images: Tensor, count: int) -> Tensor:
    """Return features [count, N, D] of views of images uint8 [N, C, H, W] as a task augments and passes them.

    View v is drawn from the stream ("augment", stream, "view", v). Every rank has all of them.
    """
    with tqdm(total=count * len(images), desc=f"{task.label}: views", unit="image", disable=None) as bar:

        def view(generator: torch.Generator) -> Tensor:
            def features(batch: Tensor) -> Tensor:
                bar.update(len(batch))
                return task.model.features(task.views(batch, generator, common=True)[0])

            return task.evaluated(features, images)

        return torch.stack([view(task.views.generator(stream, "view", number)) for number in range(count)])


def pick(features: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
    """Return the features [B, D] of a random view of each image of `index` [B]; features: [V, N, D].

    The draws are made for the rows of all ranks, as those of an augmentation are.
    """
    views = (ranks() * len(index),)
    drawn = share(torch.randint(len(features), views, generator=generator, device=generator.device))
    return features[drawn, index.to(drawn.device)]
