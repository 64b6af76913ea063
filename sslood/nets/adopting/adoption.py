"""A model from outside becomes one of ours: its weights under our names, checked against a floor.

Weights that do not belong to a network can load without a complaint and give plausible numbers, so every key
must fit and the model must reach on ID validation what its publisher promises.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import nn

from sslood.core.batches import batches
from sslood.core.errors import InputError
from sslood.core.rounding import decimal
from sslood.core.settings import Settings, above, at_least, between, checked, strict
from sslood.nets import backbones  # noqa: F401  an entry may name any: all are code deps of this cheap stage
from sslood.nets.adopting.layouts import Layout, State, find_layout
from sslood.nets.inference.extract import extract
from sslood.nets.networks.build import build_backbone
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.networks.user_architectures import feature_dim, is_own, own_network, source
from sslood.nets.probing.probes import knn_scores, top_accuracy

BATCH = 256
IMAGENET = (1000, 10450, 11221, 11821, 21841, 21843)  # classes of ImageNet's versions
RULES = ("state", "strip", "drop", "rename", "head")
# of the kNN floor; independent of the settings of the stage `probe`, so that those adopt nothing again
BANK, QUERIES, K, TEMPERATURE = 10_000, 2_000, 20, 0.07


@dataclass(frozen=True)
class AdoptSettings(Settings):
    """One entry of the section `models` of params.yaml."""

    weights: Annotated[str, "path, path below SSLOOD_DATA_MIRROR, or address of the checkpoint"]
    sha256: Annotated[str, "checksum of the checkpoint"]
    architecture: Annotated[str, "full name of a backbone, or architectures.<file>:<function>[:<layer>]"]
    size: Annotated[int, at_least(1), "pixels: height and width of its images"]
    channels: Annotated[int, at_least(1), "of its images: 1 or 3"]
    mean: Annotated[tuple[float, ...], "per channel, of pixels in [0, 1]"]
    std: Annotated[tuple[float, ...], above(0), "per channel, of pixels in [0, 1]"]
    layout: Annotated[str, "name in layouts.yaml; the entry may replace its rules one by one"]
    saw_validation: Annotated[bool, "whether it was trained on images of ID validation"]
    classes: Annotated[tuple[str, ...], "that the head predicts, in its order"] = ()
    min_accuracy: Annotated[float, between(0, 1), "floor of the accuracy on ID validation, 0 = none"] = 0.0
    min_knn: Annotated[float, between(0, 1), "floor of the kNN accuracy of the features, 0 = none"] = 0.0
    min_norm: Annotated[float, at_least(0), "floor of the mean length of the features, 0 = none"] = 0.0

    def _check(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{8,64}", self.sha256):
            raise InputError(
                "sha256 must be 64 hexadecimal digits, as `sha256sum FILE` prints them, or the first 8"
            )
        for key in ("mean", "std"):
            if len(getattr(self, key)) != self.channels:
                raise InputError(f"{key} needs one number for each of {self.channels} channels")


def read_entry(values: Mapping[str, Any], where: str) -> tuple[AdoptSettings, Layout]:
    """Return the entry and the rules for its keys; InputError for a wrong key or type."""
    own = {key: value for key, value in values.items() if key in RULES}
    rest = {key: value for key, value in values.items() if key not in own}
    entry = checked(AdoptSettings, rest, where)
    return entry, strict(Layout, {**vars(find_layout(entry.layout)), **own}, where)


def check_entry(entry: AdoptSettings, rules: Layout, id_set: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless the entry has a floor and is made for the images and classes of the ID set."""
    for key in ("size", "channels"):
        if getattr(entry, key) != id_set[key]:
            raise InputError(
                f"{where}.{key} is {getattr(entry, key)}, but the images of set {id_set['name']!r} have "
                f"{id_set[key]}; change data.{key}"
            )
    if rules.head and not entry.min_accuracy > 0:
        raise InputError(
            f"{where}: a classifier needs min_accuracy, so that wrongly loaded weights are noticed"
        )
    if not rules.head and not max(entry.min_knn, entry.min_norm) > 0:
        raise InputError(
            f"{where}: an encoder needs min_knn or min_norm, so that wrongly loaded weights are noticed"
        )
    _order(entry, rules, list(map(str, id_set["classes"])), where)


def _order(entry: AdoptSettings, rules: Layout, names: list[str], where: str) -> list[int]:
    """Return for every class of the ID set the row of the head that predicts it."""
    if not rules.head:
        return []
    if sorted(entry.classes) != sorted(names):
        differ = sorted(set(entry.classes) ^ set(names))
        raise InputError(
            f"{where}.classes: must be the classes of the ID set in the order of the head; "
            f"{', '.join(differ[:5]) or 'some'} are in one list only, or twice"
        )
    return [entry.classes.index(name) for name in names]


def build(
    entry: AdoptSettings, state: State, rules: Layout, classes: list[str], where: str
) -> tuple[Model, int]:
    """Return (the model in eval mode with the weights `state`, D of its features [N, D]).

    Its head predicts `classes` in their order. Raises InputError naming keys that are missing, that have no
    place, or whose shapes differ.
    """
    arch, shape = entry.architecture, {"channels": entry.channels, "size": entry.size}
    with torch.random.fork_rng(devices=[]):
        backbone: nn.Module
        if is_own(arch):
            backbone = own_network(arch)
            width = feature_dim(backbone, arch, **shape)
        else:
            backbone = ours = build_backbone(arch, channels=entry.channels)
            width = ours.feature_dim
        head = build_head(width, len(classes)) if rules.head else None
    modules: dict[str, nn.Module] = {"": backbone} | ({rules.head: head} if head is not None else {})
    expected = {
        f"{name}.{key}".removeprefix("."): value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    check_keys(state, expected, where)
    # files of PyTorch before 0.4.1 lack this counter, which no evaluation reads
    counters = {key: value for key, value in expected.items() if _is_counter(key)}
    state = {key: value.detach().to(expected[key].dtype) for key, value in (counters | state).items()}
    if head is not None:
        order = _order(entry, rules, classes, where)
        rows = {part: state.pop(f"{rules.head}.{part}")[order] for part in ("weight", "bias")}
        head.load_state_dict(rows)
    backbone.load_state_dict(state)
    return Model(backbone, head).eval(), width


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def check_keys(
    state: State,
    expected: State,
    where: str,
    advice: str = "correct architecture, layout, strip, drop, rename or head",
) -> None:
    """Raise InputError unless every weight has its place and shape and is finite; counters may be missing."""
    missing = [key for key in expected if key not in state and not _is_counter(key)]
    unexpected = [key for key in state if key not in expected]
    if missing or unexpected:
        groups = {"missing": missing, "unexpected": unexpected}
        text = "; ".join(f"{len(keys)} {what}: {_few(keys)}" for what, keys in groups.items() if keys)
        raise InputError(f"{where}: the weights do not fit the architecture ({text}); {advice}")
    for key, value in state.items():
        if value.shape != expected[key].shape:
            raise InputError(
                f"{where}: weight {key!r} has shape {list(value.shape)}, "
                f"the architecture needs {list(expected[key].shape)}"
            )
        if not torch.isfinite(value.to(expected[key].dtype)).all():  # 1e300 is infinite in float32
            raise InputError(f"{where}: weight {key!r} has NaN or infinite values")


def _few(keys: list[str], count: int = 4) -> str:
    return ", ".join(map(repr, keys[:count])) + (", …" if len(keys) > count else "")


def final_linear(entry: AdoptSettings, backbone: nn.Module, width: int) -> str:
    """Return in a sentence that the features of a network of your own look like class logits, or nothing."""
    if not is_own(entry.architecture):
        return ""
    names = {layer: name for name, layer in backbone.named_modules() if isinstance(layer, nn.Linear)}
    given: dict[str, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output: given.update({names[layer]: output}))
        for layer in names
    ]
    with torch.no_grad():
        # not blank: a ReLU would leave the zeros of a layer without bias as they are
        waves = torch.arange(4.0 * entry.channels * entry.size**2).sin()
        features = backbone.eval()(waves.reshape(4, entry.channels, entry.size, entry.size))
    for hook in hooks:
        hook.remove()
    last = next((name for name, output in given.items() if torch.equal(output, features)), "")
    if not last and width not in IMAGENET:
        return ""
    what = f"are the output of its linear layer {last!r}" if last else "are as many as ImageNet has classes"
    return (
        f"the {width} features of {entry.architecture} {what}: class logits, it "
        "seems, of which detectors that read features make little; take that layer off "
        f"(architectures.<file>:<function>:{last or '<layer>'})"
    )


def measure(
    model: Model, entry: AdoptSettings, sets: Mapping[str, np.ndarray], classes: int, where: str
) -> dict[str, float]:
    """Return norm, with min_knn knn, and with a head accuracy, on ID validation.

    norm is the mean length of the features; knn the accuracy of 20 neighbours among at most 10,000 images
    of ID train, for at most 2,000 of validation. Raises InputError if the model gives numbers that are not
    finite.
    """

    def outputs(images: np.ndarray) -> dict[str, np.ndarray]:
        found = extract(model, batches(images, BATCH), mean=entry.mean, std=entry.std)
        for part, values in found.items():
            if bad := int((~np.isfinite(values)).any(1).sum()):
                raise InputError(
                    f"{where}: the {part} of {bad} of {len(values)} ID images are NaN or infinite; the "
                    "weights load, but do not compute: check the file, mean, std, architecture and layout"
                )
        return found

    validation = outputs(sets["validation.images"])
    labels = sets["validation.labels"]
    values = {"norm": float(np.linalg.norm(validation["features"].astype(np.float64), axis=1).mean())}
    if "logits" in validation:
        values["accuracy"] = top_accuracy(validation["logits"], labels)
    if entry.min_knn > 0:
        rows = np.linspace(0, len(sets["train.images"]) - 1, min(BANK, len(sets["train.images"]))).astype(int)
        bank = outputs(sets["train.images"][rows])["features"]
        k = min(K, len(bank))
        votes = knn_scores(
            bank, sets["train.labels"][rows], validation["features"][:QUERIES],
            classes=classes, ks=[k], temperature=TEMPERATURE,
        )[k]  # fmt: skip
        values["knn"] = top_accuracy(votes, labels[:QUERIES])
    return values


def check_floors(values: Mapping[str, float], entry: AdoptSettings, where: str) -> None:
    """Raise InputError naming floor and value if the model stays below one of its floors."""
    words = {
        "accuracy": "accuracy",
        "knn": "nearest-neighbour accuracy",
        "norm": "mean feature length",
    }
    for key, name in words.items():
        floor = getattr(entry, f"min_{key}")
        if floor > 0 and key not in values:
            raise InputError(
                f"{where}.min_{key}: the model has no head, so no {name}; use min_knn or min_norm"
            )
        if floor > 0 and not values[key] >= floor:
            raise InputError(
                f"{where}: the {name} on ID validation is {values[key]:.4f}, below the floor of {floor:g}; "
                f"the weights load, but the model does not perform as published: check mean, std, classes, "
                f"architecture and layout"
            )


def card_of(
    entry: AdoptSettings,
    rules: Layout,
    values: Mapping[str, float],
    id_set: Mapping[str, Any],
    *,
    name: str,
    seed: int,
    width: int,
) -> ModelCard:
    """Return the card of the adopted model; `values`: what was measured, `width`: D of its features."""
    settings = {**vars(entry), **{key: getattr(rules, key) for key in RULES}}
    measured = {key: decimal(value, 4) for key, value in values.items()}  # of float32
    return ModelCard.for_set(
        {**id_set, "mean": list(entry.mean), "std": list(entry.std)},
        name=name,
        objective="adopted",
        arch=entry.architecture,
        seed=seed,
        saw_validation=entry.saw_validation,
        head_classes=list(range(len(id_set["classes"]))) if rules.head else None,
        feature_dim=width,
        settings={**settings, "measured": measured},
        code=source(entry.architecture) if is_own(entry.architecture) else {},
    )
