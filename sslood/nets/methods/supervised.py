"""What the supervised trainings share: views, modes, clean predictions, an endless second set."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.core.machine import Machine
from sslood.core.seeding import stream_seed
from sslood.data.images.augment import Recipe, augment
from sslood.data.images.resident import ResidentSet, normalise
from sslood.nets.networks.files import Model
from sslood.nets.training.checkpoint import Checkpoint
from sslood.nets.training.compiling import Compiled
from sslood.nets.training.loop import run_epochs, seed_layers
from sslood.nets.training.optimisers import build_optimiser, set_learning_rate

COUNTS = ("epochs", "batch_size", "auxiliary_batch_size", "save_every")
AMOUNTS = ("lr", "final_lr", "weight_decay", "warmup_epochs", "weight", "beta", "margin", "gamma")

StepLoss = Callable[[torch.Tensor], tuple[torch.Tensor, dict[str, torch.Tensor]]]


@dataclass(frozen=True)
class Views:
    """What turns stored images into what the network sees, in training: recipe, mean and std of the model."""

    recipe: Recipe
    mean: torch.Tensor
    std: torch.Tensor
    seed: int

    def generator(self, epoch: int, name: str) -> torch.Generator:
        """Return the generator of an epoch's augmentations, of the stream ("augment", name, epoch)."""
        generator = torch.Generator(self.mean.device)
        return generator.manual_seed(stream_seed(self.seed, "augment", name, epoch))

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Stored uint8 images [B, C, H, W] -> augmented, normalised floats."""
        return normalise(augment(images, self.recipe, generator), self.mean, self.std)


def make_views(recipe: Recipe, metadata: Mapping[str, Any], seed: int, device: torch.device) -> Views:
    """Return the views of a model's metadata (its mean and std travel with it)."""
    mean, std = (torch.tensor(metadata[key], dtype=torch.float32, device=device) for key in ("mean", "std"))
    return Views(recipe, mean, std, seed)


def load_split(path: Any, split: str, device: torch.device) -> ResidentSet:
    """Return one split of a set file on `device`; no other split is read."""
    names = [f"{split}.images", f"{split}.labels"]
    tensors, _ = load_tensors(path, kind="set", only=names)
    return ResidentSet(*(tensors[name] for name in names), device)


def set_modes(model: Model, freeze: str) -> None:
    """Put the model into training; with freeze "backbone" the backbone stays in eval mode, without gradients.

    A frozen backbone in training mode would still move its batch-norm statistics.
    """
    model.train()
    if freeze == "backbone":
        model.backbone.eval()
        model.backbone.requires_grad_(False)


def prepared(model: Model, machine: Machine, label: str) -> tuple[Machine, Callable]:
    """Return the settings for training `model`, and what a step calls: the model, compiled where chosen."""
    if machine.device.type == "cuda":
        model.to(memory_format=torch.channels_last)  # what tensor cores read
    return machine.for_training(model), Compiled(model, label) if machine.compile else model


@torch.inference_mode()
def predict(
    model: Model, images: torch.Tensor, views: Views, machine: Machine, batch_size: int
) -> torch.Tensor:
    """Return float32 logits [N, K] of clean uint8 images, in eval mode."""
    model.eval()
    parts = []
    for batch in images.split(batch_size):
        with machine.autocast():
            parts.append(model(normalise(batch, views.mean, views.std)).float())
    return torch.cat(parts)


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of images whose largest logit is the label's."""
    return (logits.argmax(1) == labels).float().mean().item()


def check_sets(train: ResidentSet, validation: ResidentSet, batch_size: int) -> int:
    """Return the steps of an epoch; InputError if not one batch fits or there is no validation image."""
    if not len(validation):
        raise InputError("the set has no validation images; raise data.validation and run `download` again")
    return train.steps(batch_size)


def endless(data: ResidentSet, seed: int, epoch: int, batch_size: int) -> Iterator[torch.Tensor]:
    """Yield index batches of one epoch for ever, each pass over the set in a new order."""
    data.steps(batch_size)
    turn = 0
    while True:
        yield from data.epoch_batches(stream_seed(seed, "turns", epoch), turn, batch_size)
        turn += 1


def run_supervised(
    label: str,
    model: Model,
    data: ResidentSet,
    *,
    options: Any,
    optimiser: torch.optim.Optimizer,
    rate: Callable[[int, int], float],
    begin_epoch: Callable[[int], StepLoss],
    watch: Callable[[], dict[str, float]],
    seed: int,
    checkpoint: Checkpoint | None,
) -> list[dict[str, float]]:
    """Run options.epochs of steps over `data` in batches of options.batch_size; return the curves.

    `rate(step, per_epoch)` is the learning rate of a step counted over the whole run.
    `begin_epoch(epoch)` sets the modes, restarts the streams of the epoch and returns the function
    that turns the indices of a batch into (loss, terms); the means of the terms are read once an
    epoch, so no step waits for the device. `watch()` measures after each epoch.
    """
    per_epoch = data.steps(options.batch_size)

    def epoch_step(epoch: int, bar) -> dict[str, float]:
        seed_layers(seed, epoch, data.device)
        step_loss = begin_epoch(epoch)
        totals, lr = 0.0, 0.0
        for step, index in enumerate(data.epoch_batches(seed, epoch, options.batch_size), epoch * per_epoch):
            lr = rate(step, per_epoch)
            set_learning_rate(optimiser, lr)
            loss, terms = step_loss(index)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            totals = totals + torch.stack([term.detach() for term in terms.values()])
            bar.update(len(index))
        row = dict(zip(terms, (totals / per_epoch).tolist(), strict=True))
        return {**row, "lr": lr, **watch()}

    return run_epochs(
        label,
        epochs=options.epochs,
        epoch_step=epoch_step,
        state={"model": model, "optimiser": optimiser},
        checkpoint=checkpoint,
        save_every=options.save_every,
        items=per_epoch * options.batch_size,
    )


def build_sgd(model: Model, options: Any) -> torch.optim.Optimizer:
    """Return momentum SGD over the trained parameters, from options.lr, momentum, nesterov, weight_decay."""
    return build_optimiser(
        "sgd",
        model,
        lr=options.lr,
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        nesterov=options.nesterov,
    )


def describe(options: Any, **more: Any) -> dict[str, Any]:
    """Return the science settings of a run, for metadata and fingerprint: how often it saves is none."""
    settings = {key: value for key, value in vars(options).items() if key != "save_every"}
    return {**settings, **more}


def check_options(section: str, options: Any, *, share: tuple[str, ...] = ()) -> None:
    """Raise InputError for impossible numbers: epochs or a batch below 1, a negative rate or weight.

    The options named in `share` must lie in [0, 1).
    """
    for key, value in vars(options).items():
        if key in share:
            if not 0 <= value < 1:
                raise InputError(f"{section}: {key} is {value}; use 0 up to below 1")
        elif key in COUNTS and value < 1:
            raise InputError(f"{section}: {key} is {value}; use at least 1")
        elif key in AMOUNTS and not value >= 0:
            raise InputError(f"{section}: {key} is {value}; it must not be negative")
