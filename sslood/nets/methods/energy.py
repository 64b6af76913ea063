"""Energy-bounded fine-tuning: Liu et al. 2020, "Energy-based Out-of-distribution Detection", section 3.3."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

from sslood.core.errors import InputError
from sslood.core.files import read_metadata
from sslood.core.machine import Machine
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.supervised import (
    Views,
    accuracy,
    build_sgd,
    check_options,
    check_sets,
    endless,
    predict,
    prepared,
    run_supervised,
)
from sslood.nets.networks.build import seeded
from sslood.nets.networks.card import ModelCard, check_fits
from sslood.nets.networks.files import load_model
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.training.checkpoint import Checkpoint
from sslood.nets.training.schedules import learning_rate

CONFIDENT = 0.99  # the softmax probability that defines m_in of a head without training


@dataclass(frozen=True)
class EnergyOptions:
    """The section `energy` of params.yaml. The rate falls as a cosine from `lr` to `final_lr`."""

    epochs: int
    batch_size: int
    auxiliary_batch_size: int
    lr: float
    final_lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    weight: float
    margins: Literal["auto", "fixed"]
    m_in: float
    m_out: float
    save_every: int

    def __post_init__(self):
        check_options("energy", self, share=("momentum",))


def start_model(
    init_model: str | Path, id_set: str | Path, seed: int, device: torch.device
) -> tuple[Model, ModelCard, bool]:
    """Return (model with a head over all classes, the card of the start, whether that head is fresh).

    InputError where model and ID set do not belong together.
    """
    start, card = load_model(init_model)
    check_fits(card, read_metadata(id_set, kind="set"), init_model)
    classes = list(range(len(card.classes)))
    fresh = card.head_classes != classes
    with seeded(seed, "head"):
        head = build_head(card.feature_dim, len(classes)) if fresh else start.need_head()
    return Model(start.backbone, head).to(device), card, fresh


def energy(logits: torch.Tensor) -> torch.Tensor:
    """Return E(x) = -logsumexp of the logits [N, K] -> [N], at temperature 1 (eq. 4); larger = more OOD."""
    return -torch.logsumexp(logits, 1)


def margin_loss(
    energy_in: torch.Tensor, energy_out: torch.Tensor, *, m_in: float, m_out: float
) -> torch.Tensor:
    """Return mean_in max(0, E - m_in)^2 + mean_out max(0, m_out - E)^2 (section 3.3), means over samples."""
    above = F.relu(energy_in - m_in).square().mean()
    below = F.relu(m_out - energy_out).square().mean()
    return above + below


def energy_objective(
    logits: torch.Tensor, labels: torch.Tensor, *, weight: float, m_in: float, m_out: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return (CE + weight * margin_loss, its terms) for logits [N + M, K], `labels` [N] of the first."""
    inside, outside = energy(logits[: len(labels)]), energy(logits[len(labels) :])
    cross = F.cross_entropy(logits[: len(labels)], labels)
    margin = margin_loss(inside, outside, m_in=m_in, m_out=m_out)
    terms = {"cross_entropy": cross, "margin_loss": margin, "energy_id": inside.mean()}
    return cross + weight * margin, {**terms, "energy_auxiliary": outside.mean()}


def auto_margins(energy_in: torch.Tensor, energy_out: torch.Tensor) -> tuple[float, float]:
    """Return (m_in, m_out) from the energies of the start model on ID training and auxiliary images.

    m_in = median of the ID energies; m_out = the median of the auxiliary energies, but at least the
    level that 95 % of the ID images lie below. So both margins lie within what the network already
    produces, at its own scale: half of the ID images already satisfy m_in, and the loss pulls in the
    upper half, where detection goes wrong, and pushes out the auxiliaries that look like ID. Margins
    far from a network's energies distort it instead (constants do not carry over between networks).
    """
    level = torch.tensor([0.5, 0.95], dtype=torch.float64)
    m_in, upper = _quantiles(energy_in, level).tolist()
    m_out = max(upper, _quantiles(energy_out, level[:1]).item())
    return m_in, m_out


def _quantiles(values: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    # torch.quantile refuses more than 16 million values, and not every device has float64
    ordered = values.cpu().double().sort().values
    position = levels * (len(ordered) - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=len(ordered) - 1)
    return torch.lerp(ordered[low], ordered[high], position - low)


def untrained_margins(classes: int) -> tuple[float, float]:
    """Return (m_in, m_out) for a head without training, whose energies say nothing yet.

    m_out = -ln K, the energy of K equal logits of zero; m_in = the energy of one logit that stands out
    from zeros by enough for a probability of 0.99: -ln((K - 1) / (1 - 0.99)).
    """
    return -math.log((classes - 1) / (1 - CONFIDENT)), -math.log(classes)


def choose_margins(
    model: Model,
    train: ResidentSet,
    auxiliary: ResidentSet,
    *,
    options: EnergyOptions,
    fresh_head: bool,
    views: Views,
    machine: Machine,
) -> dict[str, Any]:
    """Return m_in and m_out with what they come from, for the metadata; InputError unless m_in < m_out.

    Energies are measured on clean images in eval mode.
    """
    batch = options.batch_size + options.auxiliary_batch_size
    measured = [energy(predict(model, data.images, views, machine, batch)) for data in (train, auxiliary)]
    if options.margins == "fixed":
        m_in, m_out = options.m_in, options.m_out
    elif fresh_head:
        m_in, m_out = untrained_margins(model.head.out_features)
    else:
        m_in, m_out = auto_margins(*measured)
    if not m_in < m_out:
        raise InputError(f"energy: m_in is {m_in:.4g} and m_out {m_out:.4g}; use m_in below m_out")
    start = {key: values.mean().item() for key, values in zip(("id", "auxiliary"), measured, strict=True)}
    return {"m_in": m_in, "m_out": m_out, "margins": options.margins, "start_mean_energy": start}


def set_energy_modes(model: Model, mode: Literal["full", "head"]) -> None:
    """Prepare a step. Batch norm keeps the statistics of the start model in both modes.

    A batch of ID and auxiliary images together would be normalised by statistics that no test batch
    has, and would move them towards the auxiliaries; frozen statistics make the function that is
    trained the one that is tested. "head" freezes the backbone as a whole.
    """
    model.eval()
    model.backbone.requires_grad_(mode == "full")


def train_energy(
    model: Model,
    train: ResidentSet,
    validation: ResidentSet,
    auxiliary: ResidentSet,
    *,
    options: EnergyOptions,
    mode: Literal["full", "head"],
    m_in: float,
    m_out: float,
    views: Views,
    seed: int,
    machine: Machine,
    checkpoint: Checkpoint | None,
) -> list[dict[str, float]]:
    """Fine-tune `model` in place with CE + weight * margin_loss; return the curves. The last epoch is kept.

    ID and auxiliary images go through the network as one batch, both augmented; the auxiliaries are
    shuffled anew in each epoch and start again when they are used up. InputError for a batch larger
    than its set.
    """
    check_sets(train, validation, options.batch_size)
    auxiliary.steps(options.auxiliary_batch_size)
    set_energy_modes(model, mode)
    optimiser = build_sgd(model, options)
    machine, network = prepared(model, machine, "energy")

    def begin_epoch(epoch: int):
        set_energy_modes(model, mode)
        generator, others = views.generator(epoch, "id"), views.generator(epoch, "auxiliary")
        outliers = endless(auxiliary, seed, epoch, options.auxiliary_batch_size)

        def step_loss(index: torch.Tensor):
            images = views(train.images[index], generator), views(auxiliary.images[next(outliers)], others)
            with machine.autocast():
                logits = network(torch.cat(images)).float()
            return energy_objective(
                logits, train.labels[index], weight=options.weight, m_in=m_in, m_out=m_out
            )

        return step_loss

    def watch() -> dict[str, float]:
        logits = predict(model, validation.images, views, machine, options.batch_size)
        return {"validation_accuracy": accuracy(logits, validation.labels)}

    def rate(step: int, per_epoch: int) -> float:
        return learning_rate(
            "cosine", step, options.epochs * per_epoch, base=options.lr, final=options.final_lr
        )

    return run_supervised(
        "energy",
        model,
        train,
        options=options,
        optimiser=optimiser,
        rate=rate,
        begin_epoch=begin_epoch,
        watch=watch,
        seed=seed,
        checkpoint=checkpoint,
    )
