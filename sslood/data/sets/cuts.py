"""Which pictures of a set go into which split of its file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np

from sslood.core.errors import InputError
from sslood.core.seeding import numpy_stream
from sslood.core.settings import Auto, Settings, at_least, between, inside
from sslood.core.splits import stratified_choice, stratified_cut
from sslood.data.sets.images import Square
from sslood.data.sets.pictures import Pictures, Splits
from sslood.data.sets.roles.roles import SPLITS, Role

NEW = ("square", "bits")  # settings that params of earlier versions lack


@dataclass(frozen=True)
class DataSettings(Settings):
    """The section `data`: what decides the content of every set file."""

    size: Annotated[int, between(8, 1024), "side of the square images, pixels"]
    channels: Annotated[Literal[1, 3], "1 grey, 3 RGB"]
    validation: Annotated[float, inside(0, 1), "share of ID train that is kept for choosing"]
    count: Annotated[int, at_least(8), "images per split of a set that is drawn"]
    limit: Annotated[int, at_least(0), "maximum number of images per split, 0 = all"]
    seed: Annotated[int, "seed of the cuts and of drawn images"]
    square: Annotated[Square, "way of a picture to a square: its centre, on black bars, or squashed"] = "crop"
    bits: Annotated[
        int | Auto,
        between(8, 16),
        "significant bits of pictures of 16 bits that do not declare them; auto = those that a set needs",
    ] = "auto"

    @property
    def changed(self) -> dict[str, Any]:
        """The settings by name, without those of NEW that leave a set as it was before they existed."""
        return {k: v for k, v in asdict(self).items() if k not in NEW or v != getattr(type(self), k)}


@dataclass(frozen=True)
class ClassSettings(Settings):
    """The section `classes`: how the ID set is divided."""

    test: Annotated[float, inside(0, 1), "share cut off as test split where the publisher cut none"]
    heldout: Annotated[tuple[str, ...], "class held out of the ID set; may be repeated"] = ()


_YAML = ("yes", "no", "on", "off", "true", "false", "null", "y", "n")  # words that it does not read as text
Cut = dict[str, tuple[Pictures, np.ndarray]]  # split -> pictures and their positions in the source


def cut_splits(
    name: str,
    read: Splits,
    role: Role,
    data: DataSettings,
    classes: ClassSettings,
    *,
    heldout: bool,
    like: Sequence[str] | None = None,
) -> Cut:
    """Return the splits that a set's file holds, from those that its source has ("" = none).

    A labelled set loses the classes of `classes.heldout`; one with `heldout` has them alone, one that is to
    be `like` the ID set's classes those alone. Cuts are stratified and drawn from streams of `data.seed`.
    Raises InputError for a split without images, or classes that the set does not have.
    """
    if like is not None:
        splits = {split: _alike(name, pictures, like) for split, pictures in read.items()}
    elif role.is_labelled or heldout:
        splits = {split: _of_classes(name, pictures, classes, heldout) for split, pictures in read.items()}
    else:
        splits = {split: (pictures, np.arange(len(pictures.labels))) for split, pictures in read.items()}
    if not role.is_labelled:
        return _limited(name, _for_role(splits, role, data), data)
    if "" in splits:
        splits = _divided(splits[""], classes.test, ("train", "test"), "test", data, least=2)
    if "validation" not in splits:
        splits |= _divided(splits["train"], data.validation, ("train", "validation"), "validation", data)
    return _limited(name, {split: splits[split] for split in SPLITS}, data)


def _of_classes(
    name: str, pictures: Pictures, classes: ClassSettings, heldout: bool
) -> tuple[Pictures, np.ndarray]:
    """Return the pictures of the kept or of the held-out classes, labelled anew, and their positions."""
    out, known = set(classes.heldout), pictures.classes
    if heldout and not out:
        raise InputError(
            f"set {name!r} needs at least one class in classes.heldout; otherwise take it out of `sets`"
        )
    if out - set(known) or (out and len(known) == len(out)):
        number = next((label for label in known if not label[:1].isalpha() or label.lower() in _YAML), "")
        hint = f"; write a class such as {number!r} in quotes" if number and out - set(known) else ""
        raise InputError(
            f"classes.heldout is {list(classes.heldout)}: name classes of the ID set so that one or more "
            f"remain, or none ([]); it has {', '.join(known) or 'no classes'}{hint}"
        )
    if not known:
        return pictures, np.arange(len(pictures.labels))
    names = tuple(label for label in known if (label in out) == heldout)
    position = {label: index for index, label in enumerate(names)}
    table = np.array([position.get(label, -1) for label in known], np.int64)
    rows = np.flatnonzero(np.isin(pictures.labels, np.flatnonzero(table >= 0)))
    chosen = pictures.take(rows) if len(rows) < len(pictures.labels) else pictures
    return Pictures(chosen.images, table[chosen.labels], names), rows


def _alike(name: str, pictures: Pictures, like: Sequence[str]) -> tuple[Pictures, np.ndarray]:
    """Return the pictures of classes that are named like ID classes, labelled as these, and their positions.

    Capitals make no difference where no name is exactly the same. Pictures without labels stay as they are.
    """
    if not pictures.classes or not like:
        labels = np.full(len(pictures.labels), -1, np.int64)
        return Pictures(pictures.images, labels, tuple(like)), np.arange(len(labels))
    table = np.array([_place(name, label, like) for label in pictures.classes], np.int64)
    rows = np.flatnonzero((pictures.labels >= 0) & (table[pictures.labels] >= 0))
    if not len(rows):
        raise InputError(
            f"set {name!r}: has role shifted, but none of its classes ({', '.join(pictures.classes)}) is one "
            f"of the ID set's ({', '.join(like)}); name its classes like those, or give it another role"
        )
    chosen = pictures.take(rows)
    return Pictures(chosen.images, table[chosen.labels], tuple(like)), rows


def _place(name: str, label: str, like: Sequence[str]) -> int:
    """Return the position in `like` of a class, -1 for none; InputError if it is not clear which is meant."""
    if label in like:
        return like.index(label)
    found = [index for index, other in enumerate(like) if other.casefold() == label.casefold()]
    if len(found) > 1:
        several = " or ".join(like[index] for index in found)
        raise InputError(
            f"set {name!r}: its class {label!r} could be {several} of the ID set; name it exactly like "
            "one of them"
        )
    return found[0] if found else -1


def strangers(classes: Sequence[str], like: Sequence[str] | None) -> list[str]:
    """Return the classes of a set that `_alike` leaves out, none if it is not asked."""
    known = {label.casefold() for label in like or classes}
    return [label for label in classes if label.casefold() not in known]


def _for_role(splits: Cut, role: Role, data: DataSettings) -> Cut:
    """Name the splits of a set beside the ID set as its role wants them.

    One that is to have a validation split, and comes without, gives the share `data.validation` to it, as
    the ID set does. One that comes with it alone has an empty train split.
    """
    first = next(iter(splits.values()))
    if len(role.kept) == 1:
        return {role.kept[0]: first}
    if "validation" in splits:
        pictures, index = splits["validation"]
        nothing = np.empty(0, np.int64)
        return {"train": (pictures.take(nothing), index[nothing])} | splits
    cut = _divided(first, data.validation, ("train", "validation"), "tuning", data)
    if not len(cut["validation"][1]):  # a single picture: settings are chosen on it, nothing is trained
        return {"train": cut["validation"], "validation": cut["train"]}
    return cut


def _divided(
    part: tuple[Pictures, np.ndarray],
    share: float,
    names: tuple[str, str],
    stream: str,
    data: DataSettings,
    least: int = 1,
) -> Cut:
    """Cut a stratified share, at least `least`, off, drawn from `stream`: rest and share, under `names`.

    The boxes of one picture stay together: they may overlap. Their first one's class is the picture's here.
    """
    pictures, index = part
    files = pictures.files()
    _, first, unit = np.unique(files, return_index=True, return_inverse=True)
    labels = pictures.labels if len(first) == len(files) else pictures.labels[first]
    cut = stratified_cut(labels, share, numpy_stream(data.seed, stream), least)
    if labels is not pictures.labels:
        cut = (np.flatnonzero(np.isin(unit, cut[0])), np.flatnonzero(np.isin(unit, cut[1])))
    return {split: (pictures.take(rows), index[rows]) for split, rows in zip(names, cut, strict=True)}


def _limited(name: str, splits: Cut, data: DataSettings) -> Cut:
    """Keep at most `data.limit` images of each split, every class in proportion."""
    out: Cut = {}
    for split, (pictures, index) in splits.items():
        if data.limit and len(index) > data.limit:
            rng = numpy_stream(data.seed, "limit", split)
            rows = stratified_choice(pictures.labels, data.limit, rng)
            pictures, index = pictures.take(rows), index[rows]
        if not len(index) and (split, len(splits)) != ("train", 2):  # of a tuning set
            raise InputError(
                f"set {name!r}: split {split} is empty; add pictures, at least two of a class, or raise its "
                "share (data.validation or classes.test)"
            )
        out[split] = (pictures, index)
    return out
