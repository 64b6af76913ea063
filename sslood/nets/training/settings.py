"""The settings that every training shares, whatever it trains."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from sslood.core.errors import InputError
from sslood.core.precision import Precision
from sslood.core.settings import Limits, Settings, at_least
from sslood.nets.training.schedules import learning_rate


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """How a network is trained: the keys of the sections pretrain, train, finetune, energy and leaveout."""

    epochs: Annotated[int, at_least(1), "passes over the training images"]
    batch_size: Annotated[int, at_least(1), "images per batch"]
    accumulate: Annotated[int, at_least(1), "batches whose gradients are averaged for one step"]
    optimiser: Annotated[Literal["sgd", "adamw", "lars", "muon"], "optimiser"]
    lr: Annotated[float, at_least(0), "learning rate at the top of the schedule"]
    final_lr: Annotated[float, at_least(0), "learning rate that cosine and linear fall to"]
    schedule: Annotated[
        Literal["constant", "cosine", "linear", "steps"],
        "learning rate after the warm-up; steps: a tenth after 1/2 of the run, a hundredth after 3/4",
    ]
    warmup_epochs: Annotated[int, at_least(0), "epochs over which the learning rate rises linearly to lr"]
    momentum: Annotated[float, Limits(0, 1, high_included=False), "momentum; of adamw its first beta"]
    nesterov: Annotated[bool, "Nesterov momentum of sgd, lars and muon"]
    weight_decay: Annotated[float, at_least(0), "weight decay"]
    clip: Annotated[float, at_least(0), "gradient-norm clipping threshold, 0 = off"]
    precision: Annotated[
        Precision,
        "float64 gives the same results on every CPU; bf16 is float32 under automatic mixed precision",
    ]
    save_every: Annotated[int, at_least(1), "epochs between checkpoints; does not affect the result"]

    def _check(self) -> None:
        if self.warmup_epochs > self.epochs:
            raise InputError(
                f"warmup_epochs is {self.warmup_epochs}, but the run has {self.epochs} epochs; lower it"
            )

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, counted over the run, whose epochs have `steps` steps each."""
        return learning_rate(
            self.schedule,
            step,
            self.epochs * steps,
            base=self.lr,
            warmup=self.warmup_epochs * steps,
            final=self.final_lr,
        )

    def recorded(self, **more: Any) -> dict[str, Any]:
        """Return all settings that affect the result (save_every does not), for metadata and fingerprint.

        One that holds its default is left out: a new setting leaves what was written before as it was.
        """
        plain = {field.name: field.default for field in fields(self)} | {"save_every": self.save_every}
        return {key: value for key, value in vars(self).items() if value != plain[key]} | more
