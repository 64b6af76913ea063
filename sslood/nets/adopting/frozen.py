"""A pretrained backbone as it is, with a linear classifier on its features: no training, one forward pass.

The classifier is the linear probe of `sslood.nets.probing` (multinomial logistic regression on standardised
features, its penalty chosen on ID validation), folded into one layer on the features as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from sslood.core.batches import batches
from sslood.core.errors import InputError, LeftOut
from sslood.core.needs import CLASSIFIED, check_needs
from sslood.core.precision import Precision
from sslood.core.rounding import decimal
from sslood.core.settings import Settings, at_least, checked, read_section
from sslood.nets.adopting.adoption import AdoptSettings, read_entry
from sslood.nets.adopting.layouts import Layout
from sslood.nets.adopting.pretrained import open_pretrained
from sslood.nets.inference.extract import check_finite, extract
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.files import restore_model
from sslood.nets.networks.model import Model
from sslood.nets.probing.linear import fit_linear, linear_logits
from sslood.nets.probing.probes import top_accuracy

BATCH = 64  # images per forward pass
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
FLAT = 1e-8  # standard deviation below which a feature is not scaled


@dataclass(frozen=True)
class FrozenSettings(Settings):
    """An entry of the section `models` that names a pretrained backbone."""

    pretrained: Annotated[str, "name of the backbone, see docs/backbones.md"]
    weights: Annotated[str, "file or address of its weights, empty = the usual place"] = ""
    l2: Annotated[tuple[float, ...], at_least(0), "penalties of its classifier, to choose from"] = PENALTIES
    precision: Annotated[Precision, "of the forward pass"] = "float32"

    def _check(self) -> None:
        if not self.l2:
            raise InputError("l2 must list at least one penalty")


def read_any(where: str) -> FrozenSettings | tuple[AdoptSettings, Layout]:
    """Return the entry of `models` at FILE:KEY: of a pretrained backbone, or of a checkpoint with its rules.

    Raises InputError for a wrong key or type.
    """
    values = read_section(where)
    if "pretrained" in values:
        return checked(FrozenSettings, values, where)
    return read_entry(values, where)


def modules_of(model: Model) -> dict[str, nn.Module]:
    """Return backbone and head, if there is one, as `save_model` takes them."""
    return {"backbone": model.backbone} | ({"head": model.head} if model.head is not None else {})


def frozen_model(
    entry: FrozenSettings,
    sets: Mapping[str, np.ndarray],
    id_set: Mapping[str, Any],
    device: torch.device,
    *,
    name: str,
    seed: int,
    where: str,
) -> tuple[Model, ModelCard, str]:
    """Return (the backbone with a classifier of the ID set, its card, a sentence about it).

    sets: "train.images" uint8 [N, C, H, W], "train.labels" [N] and the same of validation; id_set: metadata
    of the ID set. Without labels of two classes there is no classifier, and the sentence says so. Raises
    InputError as `open_pretrained` does, and for grey images.
    """
    if id_set["channels"] != 3:
        raise InputError(f"{where}: pretrained backbones see in colour; set data.channels to 3")
    classes = list(map(str, id_set["classes"]))
    given = {"weights": entry.weights or None, "size": id_set["size"]}
    arrays, card = open_pretrained(entry.pretrained, set_name=id_set["name"], classes=classes, **given)
    model = restore_model(arrays, card.metadata(), where, device)
    width, measured = card.feature_dim, dict[str, Any]()
    try:
        check_needs((CLASSIFIED,), sets["train.labels"], where=f"{where}: a classifier ")
    except LeftOut as reason:
        note = f"without a classifier: {reason.reason}"
    else:
        features = {split: _features(model, card, sets, split, entry) for split in ("train", "validation")}
        labels = {split: sets[f"{split}.labels"] for split in features}
        weights, measured = fit_head(features, labels, classes=len(classes), l2s=entry.l2)
        model.head = _as_layer(weights).to(device)
        accuracy = f"ID validation accuracy {measured['accuracy']:.4f}"
        note = f"linear classifier: {accuracy}, l2 {measured['l2']:g}"
    card = ModelCard.for_set(
        {**id_set, "mean": card.mean, "std": card.std},
        name=name,
        objective="adopted",
        arch=card.arch,
        seed=seed,
        head_classes=None if model.head is None else list(range(len(classes))),
        feature_dim=width,
        settings={**card.settings, **vars(entry), "l2": list(entry.l2), "measured": measured},
        network=card.network,
        code=card.code,
    )
    return model, card, note


def _features(
    model: Model, card: ModelCard, sets: Mapping[str, np.ndarray], split: str, entry: FrozenSettings
) -> np.ndarray:
    """Return the features [N, D] of a split, float32."""
    images = sets[f"{split}.images"]
    say, count = f"{entry.pretrained}, {split}", -(-len(images) // BATCH)
    bar = tqdm(batches(images, BATCH), say, count, unit="batch", disable=None)
    found = extract(model, bar, mean=card.mean, std=card.std, precision=entry.precision)
    check_finite(found, model=entry.pretrained, where=f"{card.id} ({split})")
    return found["features"]


def fit_head(
    features: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    *,
    classes: int,
    l2s: tuple[float, ...],
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return (weights [D + 1, classes], last row the bias, for features as they are; l2 and accuracy).

    features [N, D] and labels [N] of "train" and "validation". Of the penalties `l2s` of `fit_linear`, which
    sees standardised features, the one of the best accuracy on validation is taken (the largest of equals).
    """
    mean, std = features["train"].mean(0, dtype=np.float64), features["train"].std(0, dtype=np.float64)
    scale = np.where(std > FLAT, std, 1.0)
    scaled = {split: (x - mean) / scale for split, x in features.items()}
    best: tuple[float, float, np.ndarray] = (-1.0, 0.0, np.empty(0))
    weights = None
    for l2 in sorted(l2s, reverse=True):  # from stiff to loose, each the start of the next
        weights = fit_linear(scaled["train"], labels["train"], classes=classes, l2=l2, start=weights)
        right = top_accuracy(linear_logits(scaled["validation"], weights), labels["validation"])
        if right > best[0]:
            best = right, l2, weights
    folded = best[2][:-1] / scale[:, None]
    bias = best[2][-1] - mean @ folded
    return np.vstack((folded, bias)), {"l2": best[1], "accuracy": decimal(best[0], 4)}


def _as_layer(weights: np.ndarray) -> nn.Linear:
    """Return weights [D + 1, classes] as a layer, in float32."""
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(len(weights) - 1, weights.shape[1])
    rows = {"weight": weights[:-1].T, "bias": weights[-1]}
    layer.load_state_dict({key: torch.tensor(value, dtype=torch.float32) for key, value in rows.items()})
    return layer.eval()
