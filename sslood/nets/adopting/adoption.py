"""A model from outside becomes one of ours: its weights under our names, held against a floor.

Weights that do not belong together load without a word and give plausible numbers, so every key must fit
and the model must reach on ID validation what its publisher promises.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from sslood.core.errors import InputError
from sslood.core.settings import strict
from sslood.nets.adopting.layouts import Layout, State, find_layout
from sslood.nets.inference.extract import batches, extract
from sslood.nets.networks.build import build_backbone
from sslood.nets.networks.files import Model
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.user_architectures import feature_dim, is_own, own_network, source
from sslood.nets.probing.probes import knn_scores, top_accuracy

BATCH = 256
RULES = ("state", "strip", "drop", "rename", "head")
BANK, QUERIES, K, TEMPERATURE = 10_000, 2_000, 20, 0.07  # of the kNN accuracy


@dataclass(frozen=True)
class Adopted:
    """One entry of the section `models` of params.yaml.

    weights: path, path below SSLOOD_DATA_MIRROR, or address; sha256: its checksum. layout: a name of
    layouts.yaml, whose rules (state, strip, drop, rename, head) the entry may replace one by one. classes:
    what the head predicts, in its order. saw_validation: whether it was trained on images of ID validation.
    Floors on ID validation, 0 = none: min_accuracy of the head, min_knn of the features, min_norm of their
    mean length.
    """

    weights: str
    sha256: str
    architecture: str
    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str
    saw_validation: bool
    classes: tuple[str, ...] = ()
    min_accuracy: float = 0.0
    min_knn: float = 0.0
    min_norm: float = 0.0


def read_entry(values: Mapping[str, Any], where: str) -> tuple[Adopted, Layout]:
    """Return the entry and the rules for its keys; InputError for a wrong key or type."""
    own = {key: value for key, value in values.items() if key in RULES}
    entry = strict(Adopted, {key: value for key, value in values.items() if key not in own}, where)
    return entry, strict(Layout, {**vars(find_layout(entry.layout)), **own}, where)


def check_entry(entry: Adopted, rules: Layout, id_set: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless the entry is whole and made for the images and classes of the ID set."""
    if not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
        raise InputError(f"{where}.sha256: must be 64 hexadecimal digits, as `sha256sum FILE` prints them")
    for key in ("size", "channels"):
        if getattr(entry, key) != id_set[key]:
            raise InputError(
                f"{where}.{key} is {getattr(entry, key)}, but the images of set {id_set['name']!r} have "
                f"{id_set[key]}; change data.{key}"
            )
    for key in ("mean", "std"):
        if len(getattr(entry, key)) != entry.channels:
            raise InputError(f"{where}.{key}: needs one number for each of {entry.channels} channels")
    if min(entry.std) <= 0:
        raise InputError(f"{where}.std is {list(entry.std)}; use positive numbers, of pixels in [0, 1]")
    if rules.head and not entry.min_accuracy > 0:
        raise InputError(f"{where}: a classifier needs min_accuracy, so that a wrong loading is noticed")
    if not rules.head and not max(entry.min_knn, entry.min_norm) > 0:
        raise InputError(f"{where}: an encoder needs min_knn or min_norm, so that a wrong loading is noticed")
    _order(entry, rules, list(map(str, id_set["classes"])), where)


def _order(entry: Adopted, rules: Layout, names: list[str], where: str) -> list[int]:
    """Return for every class of the ID set the row of the head that predicts it."""
    if not rules.head:
        return []
    if sorted(entry.classes) != sorted(names):
        differ = sorted(set(entry.classes) ^ set(names))
        raise InputError(
            f"{where}.classes: must be the classes of the ID set in the order of the head; "
            f"{', '.join(differ[:5]) or 'some'} stand in one list only, or twice"
        )
    return [entry.classes.index(name) for name in names]


def build(entry: Adopted, state: State, rules: Layout, classes: list[str], where: str) -> Model:
    """Return the model in eval mode with the weights `state`; its head predicts `classes` in their order.

    Raises InputError naming keys that are missing, that have no place, or whose shapes differ.
    """
    with torch.random.fork_rng(devices=[]):
        if is_own(entry.architecture):
            backbone = own_network(entry.architecture)
            shape = {"channels": entry.channels, "size": entry.size}
            backbone.feature_dim = feature_dim(backbone, entry.architecture, **shape)
        else:
            backbone = build_backbone(entry.architecture, channels=entry.channels)
        head = build_head(backbone.feature_dim, len(classes)) if rules.head else None
    modules: dict[str, nn.Module] = {"": backbone} | ({rules.head: head} if head is not None else {})
    wanted = {
        f"{name}.{key}".removeprefix("."): value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    _check_keys(state, wanted, where)
    # older files than PyTorch 0.4.1 lack this counter, which no evaluation reads
    counters = {key: value for key, value in wanted.items() if _is_counter(key)}
    state = {key: value.detach().to(wanted[key].dtype) for key, value in (counters | state).items()}
    if head is not None:
        order = _order(entry, rules, classes, where)
        rows = {part: state.pop(f"{rules.head}.{part}")[order] for part in ("weight", "bias")}
        head.load_state_dict(rows)
    backbone.load_state_dict(state)
    return Model(backbone, head).eval()


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _check_keys(state: State, wanted: State, where: str) -> None:
    missing = [key for key in wanted if key not in state and not _is_counter(key)]
    unexpected = [key for key in state if key not in wanted]
    if missing or unexpected:
        found = {"missing": missing, "without a place": unexpected}
        said = "; ".join(f"{len(keys)} {what}: {_few(keys)}" for what, keys in found.items() if keys)
        raise InputError(
            f"{where}: the weights do not fit the architecture ({said}); correct architecture, layout, "
            f"strip, drop, rename or head"
        )
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            raise InputError(
                f"{where}: weight {key!r} has shape {list(value.shape)}, "
                f"the architecture needs {list(wanted[key].shape)}"
            )
        if not torch.isfinite(value).all():
            raise InputError(f"{where}: weight {key!r} holds NaN or infinite values")


def _few(keys: list[str], count: int = 4) -> str:
    return ", ".join(map(repr, keys[:count])) + (", …" if len(keys) > count else "")


def measure(model: Model, entry: Adopted, sets: Mapping[str, np.ndarray], classes: int) -> dict[str, float]:
    """Return norm, knn and, with a head, accuracy on ID validation.

    norm is the mean length of the features; knn the accuracy of 20 neighbours among at most 10,000 images
    of ID train, for at most 2,000 of validation.
    """
    preprocessing = {"mean": entry.mean, "std": entry.std}
    validation = extract(model, batches(sets["validation.images"], BATCH), **preprocessing)
    labels = sets["validation.labels"]
    found = {"norm": float(np.linalg.norm(validation["features"], axis=1).mean())}
    if "logits" in validation:
        found["accuracy"] = top_accuracy(validation["logits"], labels)
    if entry.min_knn > 0:
        rows = np.linspace(0, len(sets["train.images"]) - 1, min(BANK, len(sets["train.images"]))).astype(int)
        bank = extract(model, batches(sets["train.images"][rows], BATCH), **preprocessing)["features"]
        k = min(K, len(bank))
        votes = knn_scores(
            bank, sets["train.labels"][rows], validation["features"][:QUERIES],
            classes=classes, ks=[k], temperature=TEMPERATURE,
        )[k]  # fmt: skip
        found["knn"] = top_accuracy(votes, labels[:QUERIES])
    return found


def check_floors(found: Mapping[str, float], entry: Adopted, where: str) -> None:
    """Raise InputError naming floor and value if the model stays below one of its floors."""
    said = {
        "accuracy": "accuracy",
        "knn": "nearest-neighbour accuracy",
        "norm": "mean feature length",
    }
    for key, words in said.items():
        floor = getattr(entry, f"min_{key}")
        if floor > 0 and key not in found:
            raise InputError(
                f"{where}.min_{key}: the model has no head, so no {words}; use min_knn or min_norm"
            )
        if floor > 0 and not found[key] >= floor:
            raise InputError(
                f"{where}: the {words} on ID validation is {found[key]:.4f}, below the floor of {floor:g}; "
                f"check mean, std, classes, architecture and layout: the weights loaded, but not as they were"
            )


def described(
    entry: Adopted,
    rules: Layout,
    model: Model,
    found: Mapping[str, float],
    id_set: Mapping[str, Any],
    *,
    name: str,
    seed: int,
) -> dict[str, Any]:
    """Return the metadata of the model file."""
    settings = {**vars(entry), **{key: getattr(rules, key) for key in RULES}}
    head_classes = None if model.head is None else list(range(len(id_set["classes"])))
    code = {"code": source(entry.architecture)} if is_own(entry.architecture) else {}
    return {
        "name": name, "objective": "adopted", "arch": entry.architecture, "seed": seed,
        "size": entry.size, "channels": entry.channels, "mean": list(entry.mean), "std": list(entry.std),
        "resize": id_set["resize"], "id": id_set["name"], "classes": id_set["classes"],
        "saw_validation": entry.saw_validation, "head_classes": head_classes, "projector": None,
        "feature_dim": model.backbone.feature_dim,
        "settings": {**settings, "found": {key: round(value, 6) for key, value in found.items()}}, **code,
    }  # fmt: skip
