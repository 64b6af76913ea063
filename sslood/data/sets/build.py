"""From an entry of `sets` to the tensors and metadata of its file: find, read, cut, limit, convert."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.core.seeding import numpy_stream
from sslood.data.sets import common_corruptions
from sslood.data.sets.convert import convert, notes_of, survey
from sslood.data.sets.corruptions import CITATION, KINDS, corrupt
from sslood.data.sets.crops import relative
from sslood.data.sets.cuts import ClassSettings, Cut, DataSettings, cut_splits, strangers
from sslood.data.sets.depth import Levels, Range
from sslood.data.sets.entries import source_of
from sslood.data.sets.images import Remark, chain_text
from sslood.data.sets.limits import check_least, limits_of
from sslood.data.sets.pictures import Pictures
from sslood.data.sets.roles.roles import ROLES, Role
from sslood.data.sets.source import (
    DrawnSource,
    PictureSource,
    SetSettings,
    Source,
    source_named,
)

Arrays = dict[str, dict[str, np.ndarray]]  # split -> images, labels and perhaps index
Contents = tuple[
    Arrays, tuple[str, ...], dict[str, Any]
]  # arrays, class names, what is recorded of the origin


def build_set(
    name: str, settings: SetSettings, data: DataSettings, classes: ClassSettings, id_settings: SetSettings
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (tensors, metadata) of the file of set `name`, an entry of `sets`.

    id_settings: the ID set's entry, which derived sets are made from. Raises InputError, naming the set, for
    a source that does not suit the role, and for whatever cannot be obtained or read.
    """
    try:
        return _built(name, settings, data, classes, id_settings)
    except InputError as error:
        own = re.escape(name)
        if re.search(rf"^{own}\b|'{own}'|\bsets\.{own}\b", str(error)):
            raise
        raise InputError(f"sets.{name}: {error}") from None  # a source knows only its own name


def _built(
    name: str, settings: SetSettings, data: DataSettings, classes: ClassSettings, id_settings: SetSettings
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    settings, source = source_of(settings, id_settings, f"sets.{name}")
    role = ROLES[settings.role]
    if settings.role != "id" and role.is_labelled:
        classes = replace(classes, heldout=())  # what is held out concerns the ID set
    licence, citation = source.licence, source.citation
    if settings.derive == "corruptions":
        contents = _corruptions(source, settings, data, classes)
        licence, citation = "that of the ID set", CITATION
    elif settings.derive == "common_corruptions":
        contents = _under_shift(source, settings, data, classes)
        licence, citation = "that of the ID set", common_corruptions.CITATION
    elif isinstance(source, DrawnSource):
        contents = _drawn(source, settings, data, role)
    else:
        like = _id_classes(id_settings, data, classes) if role.is_shifted else None
        contents = _converted(name, source, role, settings, data, classes, like)
    arrays, names, origin = contents
    tensors = {f"{split}.{key}": array for split, parts in arrays.items() for key, array in parts.items()}
    metadata: dict[str, Any] = {
        "name": name,
        "size": data.size,
        "channels": data.channels,
        "classes": list(names),
        "splits": {split: len(parts["images"]) for split, parts in arrays.items()},
        "resize": chain_text(data.size, data.channels, data.square),
        "source": origin,
        "licence": licence,
        "citation": citation,
        "settings": {**data.changed, **asdict(classes), "heldout": list(classes.heldout)},
    }
    if data.square != "crop":
        metadata["square"] = data.square
    if levels := origin.pop("levels", None):
        metadata["levels"] = levels
    if settings.skip_unreadable:
        metadata["settings"]["skip_unreadable"] = True
    labels = {split: parts["labels"] for split, parts in arrays.items()}
    if settings.role == "id":
        check_least(name, labels, names)
    if limits := limits_of(settings.role, labels, names):
        metadata["limits"] = [list(limit) for limit in limits]
    if role.is_labelled:
        metadata["mean"], metadata["std"] = statistics_of(arrays["train"]["images"], name)
    return tensors, metadata


def statistics_of(images: np.ndarray, name: str = "") -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel of uint8 [N, C, H, W], on the scale of [0, 1].

    From the counts of the 256 levels, in whole numbers: the same on every processor, and without a float copy
    of the images. A channel that is the same everywhere has 1, by which it can be divided; InputError that
    names the set if all channels are.
    """
    mean, std = [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, np.int64)
        for part in np.array_split(images, 16):
            counts += np.bincount(part[:, channel].ravel(), minlength=256)
        levels = list(enumerate(counts.tolist()))
        number, total, square = (sum(count * level**power for level, count in levels) for power in range(3))
        mean.append(total / (255 * number))
        std.append(math.sqrt(Fraction(number * square - total**2, (255 * number) ** 2)))
    if max(std) == 0:
        raise InputError(
            f"set {name!r}: its training images are all of one colour; nothing can be learnt from them"
        )
    return mean, [spread or 1.0 for spread in std]


def _corruptions(
    source: Source, settings: SetSettings, data: DataSettings, classes: ClassSettings
) -> Contents:
    """Corrupt ID train and ID validation images, each split from its own images only."""
    role = ROLES[settings.role]
    if role.kept != ("train", "validation"):
        raise InputError(
            f"corruptions of the ID set have a train and a validation split, which role {settings.role!r} "
            "does not use; give them role tuning"
        )
    cut, origin, levels = _read("the ID set", source, ROLES["id"], settings, data, classes)
    count = min(data.count, data.limit or data.count)
    arrays: Arrays = {}
    for split in role.kept:
        pictures, _ = cut[split]
        images, kept, _ = _decoded(f"ID {split}", pictures, settings, data, levels)
        rng = numpy_stream(data.seed, "corruptions", split)
        corrupted, labels, index = corrupt(images, pictures.labels[kept], count, rng)
        arrays[split] = {"images": corrupted, "labels": labels, "index": index}
    return arrays, tuple(KINDS), {"made from": "ID train and ID validation images", "id": origin}


def _under_shift(
    source: Source, settings: SetSettings, data: DataSettings, classes: ClassSettings
) -> Contents:
    """Corrupt every ID test image in one of the common ways; it keeps its label."""
    cut, origin, levels = _read("the ID set", source, ROLES["id"], settings, data, classes)
    pictures, index = cut["test"]
    images, kept, _ = _decoded("ID test", pictures, settings, data, levels)
    rng = numpy_stream(data.seed, "common_corruptions")
    shifted = common_corruptions.commonly_corrupted(images, rng)
    arrays = {"test": {"images": shifted, "labels": pictures.labels[kept], "index": index[kept]}}
    made = {"made from": "ID test images", "corruptions": list(common_corruptions.KINDS), "id": origin}
    return arrays, pictures.classes, made


def _id_classes(id_settings: SetSettings, data: DataSettings, classes: ClassSettings) -> tuple[str, ...]:
    """Return the names of the ID classes, read from the ID set's source."""
    source = source_named(id_settings.source, "the ID set")
    cut, *_ = _read("the ID set", source, ROLES["id"], id_settings, data, classes)
    return cut["test"][0].classes


def _drawn(source: DrawnSource, settings: SetSettings, data: DataSettings, role: Role) -> Contents:
    """Draw a set that needs no download."""
    if len(role.kept) > 1 or role.is_shifted:
        roles = "near, far, auxiliary or mixing"
        lacking = "cannot be the ID set" if settings.role == "id" else f"needs role {roles}"
        raise InputError(f"source {source.name!r} draws a single split, so it {lacking}")
    (split,) = role.kept
    count = min(data.count, data.limit or data.count)
    # other images to train with than to test on
    rng = numpy_stream(data.seed, "synthetic", source.name, *([split] if split != "test" else []))
    raster = min(data.size, settings.raster or data.size)
    images, labels, recorded = source.draw(count, data.size, data.channels, raster, rng)
    arrays = {split: {"images": images, "labels": labels.astype(np.int64)}}
    return arrays, source.classes, {"made by": source.name, **recorded}


def _converted(
    name: str,
    source: Source,
    role: Role,
    settings: SetSettings,
    data: DataSettings,
    classes: ClassSettings,
    like: Sequence[str] | None = None,
) -> Contents:
    """Pass every split through the chain; of a set that is to be `like` the ID classes, what is."""
    cut, origin, levels = _read(name, source, role, settings, data, classes, like)
    arrays: Arrays = {}
    names: tuple[str, ...] = ()
    unreadable: dict[str, list[str]] = {}
    remarks: list[tuple[str, Remark]] = []
    for split, (pictures, index) in cut.items():
        images, kept, said = _decoded(f"{name} {split}", pictures, settings, data, levels)
        arrays[split] = {"images": images, "labels": pictures.labels[kept], "index": index[kept]}
        names = pictures.classes
        if not kept.all():
            unreadable[split] = _names(pictures.take(np.flatnonzero(~kept)), settings.place)
        about = pictures.take(np.array([row for row, _ in said], np.int64))
        named = _names(about, settings.place) if isinstance(about.images, list) else [split] * len(said)
        remarks += zip(named, (remark for _, remark in said), strict=True)
    if notes := notes_of(remarks, sum(len(index) for _, index in cut.values())):
        origin = origin | {"notes": [*origin.get("notes", []), *notes]}
    if levels.found:
        origin = origin | {"levels": list(levels.found)}
    return arrays, names, origin | ({"unreadable": unreadable} if unreadable else {})


def _read(
    name: str,
    source: Source,
    role: Role,
    settings: SetSettings,
    data: DataSettings,
    classes: ClassSettings,
    like: Sequence[str] | None = None,
) -> tuple[Cut, dict[str, Any], Range]:
    """Return the splits of a set that its role uses, what is recorded of their origin, and their levels.

    The levels are those of all pictures of the source, so a set that is made from the ID set has the same.
    """
    if not isinstance(source, PictureSource):
        raise InputError(f"source {source.name!r} has only a test split, so it cannot be the ID set")
    read, origin = source.read(name, role, settings)

    def look() -> Levels:
        whole = source.read(name, ROLES["id"], settings)[0] if settings.derive else read
        files = [part.images for part in whole.values() if not isinstance(part.images, np.ndarray)]
        return survey([path for paths in files for path in paths], name)

    levels = Range(look, None if data.bits == "auto" else (0, (1 << data.bits) - 1))
    cut = cut_splits(name, read, role, data, classes, heldout=settings.derive == "heldout", like=like)
    if strange := strangers(next(iter(read.values())).classes, like):
        said = f"left out, being no ID classes: {', '.join(strange)}"
        origin = origin | {"notes": [*origin.get("notes", []), said]}
    return cut, origin, levels


def _names(pictures: Pictures, place: Path) -> list[str]:
    """Return the names of pictures relative to the folder, or the CSV file's folder, that they are of."""
    root = place if place.is_dir() else place.parent
    return [relative(path, root) for path in pictures.images]


def _decoded(
    name: str, pictures: Pictures, settings: SetSettings, data: DataSettings, levels: Range
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, Remark]]]:
    """Return (images that can be decoded, whether each picture can, what is to be said of some by place)."""
    kept = np.ones(len(pictures.labels), bool)
    if not len(kept):
        return np.empty((0, data.channels, data.size, data.size), np.uint8), kept, []
    skipped: list[int] | None = [] if settings.skip_unreadable else None
    remarks: list[tuple[int, Remark]] = []
    how: Any = {"square": data.square, "levels": levels, "remarks": remarks}
    images = convert(pictures.images, data.size, data.channels, name, skipped, **how)
    kept[skipped or []] = False
    if not kept.any():
        raise InputError(f"{name}: none of the {len(kept)} pictures can be read")
    return images, kept, remarks
