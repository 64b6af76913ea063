"""What a network sees of stored images: augmented views in training, normalised images in evaluation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sslood.core.batches import normalise
from sslood.core.precision import Precision, dtype_of
from sslood.core.seeding import stream_seed
from sslood.data.images.augment import AugmentSettings, apply_draws, check_pictures, draw
from sslood.nets.training.compiling import Compiled
from sslood.nets.training.ranks import ranks, share


class Views:
    """One augmented view of each image per recipe, in the dtype of a precision, on a device.

    mean, std: one value per channel, in units of [0, 1]; they belong to the model.
    compiled: what torch.compile's failure calls the augmentation; None: it is not compiled. pictures: uint8
    [M, C, H, W] on the device that PixMix mixes in. Cutout's hole shows the mean. Raises InputError where
    PixMix has no pictures.
    """

    def __init__(
        self,
        recipes: Sequence[AugmentSettings],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        device: torch.device,
        precision: Precision,
        compiled: str | None = None,
        pictures: Tensor | None = None,
    ):
        check_pictures(recipes, pictures)
        self.pictures = pictures
        self.recipes, self.seed, self.device, self.dtype = recipes, seed, device, dtype_of(precision)
        self.mean = torch.tensor(mean, dtype=self.dtype, device=device)
        self.std = torch.tensor(std, dtype=self.dtype, device=device)
        self._view = self._augmented if compiled is None else Compiled(self._augmented, compiled)

    def generator(self, *names: str | int) -> torch.Generator:
        """Return the generator of the stream ("augment", *names); the names end with the epoch."""
        return torch.Generator(self.device).manual_seed(stream_seed(self.seed, "augment", *names))

    def __call__(self, images: Tensor, generator: torch.Generator, common: bool = False) -> list[Tensor]:
        """Stored uint8 images [B, C, H, W] of this rank -> a view [B, C, H, W] per recipe.

        The draws are float32 numbers in every precision, and made for the rows of all ranks, so that the
        views of an image depend neither on the precision nor on the number of processes. common: every rank
        has all of these images.
        """
        n = len(images) if common else ranks() * len(images)
        drawn = [draw(n, generator, recipe.columns) for recipe in self.recipes]
        draws = [(one if common else share(one)).to(self.dtype) for one in drawn]
        return [self._view(images, part, recipe) for part, recipe in zip(draws, self.recipes, strict=True)]

    def _augmented(self, images: Tensor, draws: Tensor, recipe: AugmentSettings) -> Tensor:
        view = apply_draws(images, draws, recipe, pictures=self.pictures, fill=self.mean)
        view = normalise(view, self.mean, self.std)
        return view.contiguous(memory_format=torch.channels_last)

    def clean(self, images: Tensor) -> Tensor:
        """Stored uint8 images [B, C, H, W] -> normalised images, without augmentation."""
        return normalise(images.to(self.dtype) / 255, self.mean, self.std)
