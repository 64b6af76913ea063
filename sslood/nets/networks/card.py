"""What a model file says of its model beside the weights, and whether that fits an image set."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any, Self

from sslood.core.errors import InputError

# the stage that writes models of an objective; all others are written by `pretrain`
_STAGES = {
    **{"classifier": "train", "method": "methods", "energy": "energy", "leaveout": "leaveout"},
    "adopted": "adopt",
}
LARGEST = 2**24  # values of an image beyond which a file is damaged, not for large pictures
_OF_SET = ("size", "channels", "mean", "std", "resize", "classes")  # preprocessing travels with the model
_UNUSUAL = {  # the same, where it is not what it was before it could be set
    **{"square": "crop", "levels": None},
    **{"filter": "bilinear", "resize_to": None},
}
_DEFAULTS: dict[str, Any] = {**_UNUSUAL, "network": {}}


@dataclass(frozen=True)
class ModelCard:
    """The metadata of a model file. Values are what JSON can hold.

    name: of the model, without the seed. arch: full name of the backbone, or the function in architectures/.
    objective: what it was trained for. id: name of its ID set. size, channels, mean, std, resize, classes:
    of that set; mean and std per channel, of pixels in [0, 1]. feature_dim: D of features [N, D].
    head_classes: positions in `classes` of the head's outputs, None without a head. projector: widths of the
    projector, None without one. stochastic: {"space": "h" or "z", "sigma", "components"} of a Gaussian
    embedding. settings: those that the weights depend on. epochs: of a pretraining, or after which the
    weights of a leave-out member were kept; None of others. saw_validation: whether it was trained on images
    of ID validation. square, levels: of the ID set: the way of its pictures to a square, and the values that
    are black and white where files do not say it. filter, resize_to: how its pictures are resized, see
    `sslood.data.sets.images.resize`. code: {path: sha256} of a file in architectures/. network: how another
    library builds the network, see `sslood.nets.external`. reference: what the model computes for one fixed
    image, see `reference_answer`.
    """

    name: str
    arch: str
    objective: str
    seed: int
    id: str
    size: int
    channels: int
    mean: list[float]
    std: list[float]
    resize: str
    classes: list[str]
    feature_dim: int
    head_classes: list[int] | None = None
    projector: list[int] | None = None
    stochastic: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    saw_validation: bool = False
    square: str = "crop"
    levels: list[int] | None = None
    filter: str = "bilinear"
    resize_to: int | None = None
    network: dict[str, Any] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    reference: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def for_set(cls, set_metadata: Mapping[str, Any], **rest: Any) -> Self:
        """Return the card of a model for the ID set with this metadata; `rest`: the other fields."""
        own = {key: set_metadata[key] for key in _OF_SET}
        own |= {key: set_metadata[key] for key in _UNUSUAL if key in set_metadata}
        return cls(id=set_metadata["name"], **own, **rest)

    @classmethod
    def read(cls, metadata: Mapping[str, Any], where: str | Path) -> Self:
        """Return the card in the metadata of the file `where`.

        Raises InputError if a key is missing, or holds what no network can have, such as a std that is NaN.
        """
        known = {one.name: one for one in fields(cls)}
        needed = [key for key, one in known.items() if one.default is MISSING and key not in metadata]
        missing = [key for key in needed if known[key].default_factory is MISSING or key == "reference"]
        if missing:
            raise InputError(
                f"{where}: metadata lacks {', '.join(missing)}; write it again with the stage that makes it "
                f"(`dvc repro`)"
            )
        card = cls(**{key: value for key, value in metadata.items() if key in known})
        card._check(where)
        return card

    def _check(self, where: str | Path) -> None:
        head = () if self.head_classes is None else self.head_classes
        sizes = (self.size, self.channels, self.feature_dim)
        rules = {
            "name": isinstance(self.name, str) and isinstance(self.arch, str) and isinstance(self.id, str),
            "seed": type(self.seed) is int,
            "size": all(map(_counts, sizes)) and self.channels * self.size**2 <= LARGEST,
            "mean": _numbers(self.mean, self.channels),
            "std": _numbers(self.std, self.channels) and all(n > 0 for n in self.std),
            "square": self.square in ("crop", "pad", "squash"),
            "filter": self.filter in ("bilinear", "bicubic"),
            "resize_to": self.resize_to is None
            or (type(self.resize_to) is int and self.size <= self.resize_to <= 8 * self.size),
            "network": isinstance(self.network, dict),
            "levels": self.levels is None
            or (_numbers(self.levels, 2) and -(2**31) <= self.levels[0] < self.levels[1] < 2**32),
            "classes": isinstance(self.classes, list),  # before head_classes, which are places in it
            "head_classes": self.head_classes != []
            and isinstance(self.classes, list)
            and all(type(n) is int and 0 <= n < len(self.classes) for n in head)
            and len(set(head)) == len(head),
            "projector": self.projector is None
            or (
                isinstance(self.projector, list)
                and self.projector != []
                and all(map(_counts, self.projector))
            ),
            "stochastic": self.stochastic is None or _is_gaussian(self.stochastic),
            "reference": isinstance(self.reference, dict) and all(map(_numbers, self.reference.values())),
        }
        for key, holds in rules.items():
            if not holds:
                raise InputError(
                    f"{where}: the model's {key} cannot be {getattr(self, key)!r:.80}; the file is damaged: "
                    f"{self.again}"
                )

    def metadata(self) -> dict[str, Any]:
        """Return the fields as the metadata of a file."""
        return {k: v for k, v in asdict(self).items() if k not in _DEFAULTS or v != _DEFAULTS[k]}

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    @property
    def stage(self) -> str:
        """The stage that writes such a model."""
        return _STAGES.get(self.objective, "pretrain")

    @property
    def again(self) -> str:
        """What to do to get the file of such a model again."""
        if self.objective == "pretrained":
            return "write it again with `sslood fit`"
        return f"run its stage `{self.stage}` again (`dvc repro`)"

    @property
    def preprocessing(self) -> dict[str, list[float]]:
        """Mean and std per channel, of pixels in [0, 1]."""
        return {"mean": self.mean, "std": self.std}


def _counts(value: Any) -> bool:
    """Whether this is a number of values that a network may have."""
    return type(value) is int and 0 < value <= LARGEST


def _is_gaussian(found: Any) -> bool:
    """Whether this says all that a Gaussian embedding is built from."""
    return (
        isinstance(found, dict)
        and found.get("space") in ("h", "z")
        and found.get("sigma") in ("diagonal", "single")
        and type(found.get("components")) is int
        and 0 <= found["components"] <= LARGEST
    )


def _numbers(values: Any, count: int | None = None) -> bool:
    """Whether these are `count` finite numbers in a list."""
    return (
        isinstance(values, list)
        and len(values) == (len(values) if count is None else count)
        and all(type(n) in (int, float) and isfinite(n) for n in values)
    )


def check_fits(
    model: ModelCard | Mapping[str, Any],
    set_metadata: Mapping[str, Any],
    where: str | Path,
    *,
    id_set: bool = True,
) -> None:
    """Raise InputError unless the model (of file `where`) was made for images like the set's.

    Size and channels must agree; with `id_set` also the set's name and classes. The message names
    both sides and the stage to run again.
    """
    card = model if isinstance(model, ModelCard) else ModelCard.read(model, where)
    keys = ["size", "channels"] + (["classes"] if id_set else [])
    same = all(getattr(card, key) == set_metadata[key] for key in keys)
    if same and (not id_set or card.id == set_metadata["name"]):
        return
    own = _describe(vars(card), card.id, id_set)
    other = _describe(set_metadata, set_metadata["name"], id_set)
    raise InputError(
        f"{where}: the model was made for {own}, but the set is {other}; it comes from another profile: "
        f"run the stage `{card.stage}` again (`dvc repro`)"
    )


def check_is(card: ModelCard, where: str | Path, name: str | None, seed: int | None = None) -> None:
    """Raise InputError unless the model of the file `where` is the one that its reader asks for.

    name: that it must have, None if the reader asks for none; seed: the same, None if any will do. A file
    that another was copied over is whole, and fits the same images: only its card tells.
    """
    if name is None or (card.name == name and seed in (None, card.seed)):
        return
    wanted = repr(name) + ("" if seed is None else f" of seed {seed}")
    raise InputError(
        f"{where}: holds the model {card.name!r} of seed {card.seed}, not {wanted}; write it again by the "
        "stage that makes this file (`dvc repro -f STAGE`), or give the file the name of what it holds"
    )


def name_in(path: str | Path, seed: int) -> str | None:
    """Return NAME of a file that is called NAME-SEED for this seed, None if it is called otherwise."""
    name, _, of_seed = Path(path).stem.rpartition("-")
    return name if of_seed == f"{seed}" else None


def _describe(metadata: Mapping[str, Any], name: str, with_classes: bool) -> str:
    text = f"{name!r} ({metadata['size']}x{metadata['size']} pixels, {metadata['channels']} channels"
    if not with_classes:
        return text + ")"
    classes = metadata["classes"]
    first = ", ".join(map(str, classes[:4])) + (", …" if len(classes) > 4 else "")
    return f"{text}, {len(classes)} classes: {first})"
