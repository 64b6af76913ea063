"""From a name to the tensors and metadata of a set file: find, read, cut, limit, convert."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.core.seeding import numpy_stream
from sslood.core.splits import stratified_choice, stratified_cut
from sslood.data.fetching.catalogue import Entry
from sslood.data.sets.convert import convert
from sslood.data.sets.corruptions import KINDS, corrupt
from sslood.data.sets.images import chain_text
from sslood.data.sets.readers import Pictures, digest
from sslood.data.sets.sources import read_source
from sslood.data.sets.synthetic import FONTS, LETTERS, NOISES, PHOTOS, letters, package_folder, photos
from sslood.data.sets.user_images import SPLITS

_BLOCK = 256
Splits = dict[str, tuple[Pictures, np.ndarray]]  # split -> pictures and their positions in the source


@dataclass(frozen=True)
class Settings:
    """What decides the content of a set file besides its name.

    size, channels: of every image. validation: share cut from ID train. count: images per split of a
    synthetic set. limit: at most so many per split (0 = all). heldout: classes left out of the ID set,
    which become the set <id>_heldout. test: share cut off where a set has no published test split.
    skip_unreadable: leave out pictures that cannot be decoded and list them in the metadata, instead of
    stopping.
    """

    size: int
    channels: int
    validation: float
    count: int
    limit: int
    seed: int
    heldout: tuple[str, ...]
    test: float
    skip_unreadable: bool = False


@dataclass(frozen=True)
class Source:
    """A set before conversion: pictures per split, and what is recorded about where they come from."""

    splits: Splits
    source: dict[str, Any]
    root: Path = Path()  # what the names of unreadable pictures are relative to


def build_set(
    name: str,
    entry: Entry | None,
    settings: Settings,
    *,
    id_entry: Entry | None,
    is_id: bool,
    folder: Path | None,
    is_heldout: bool = False,
    role: str = "far",
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (tensors, metadata) of the set file of `name`.

    `entry` is its catalogue record (None: `folder` holds its images), `id_entry` that of the ID set
    (None: a folder of one's own). `is_heldout`: the set holds the classes that `settings.heldout` leaves
    out of the ID set, and `entry` or `folder` are the ID set's. For `corruptions` `folder` is that of the
    ID set. `role` says which splits a set other than the ID set is made of: near and far test, auxiliary
    train, tuning train and validation.
    """
    role = "id" if is_id else role
    if folder is not None and (entry is None or entry.reader != "corruptions"):
        entry = None  # the folder is the set, whatever the catalogue has under this name
    if entry is not None and entry.reader == "corruptions":
        if is_id:
            raise InputError(f"set {name!r} is made from the ID set, so it cannot be the ID set")
        arrays, classes, source = _corruptions(id_entry, settings, folder)
    elif entry is not None and entry.reader in ("letters", "photos", *NOISES):
        if is_id:
            raise InputError(f"set {name!r} has only a test split, so it cannot be the ID set")
        arrays, classes, source = _synthetic(entry, settings, id_entry)
    else:
        found = _source(name, entry, settings, role=role, folder=folder, is_heldout=is_heldout)
        arrays, classes, source = _converted(name, found, settings)
    return _tensors(arrays), _metadata(name, entry, settings, arrays, classes, source, is_id)


Arrays = dict[str, dict[str, np.ndarray]]  # split -> images, labels and perhaps index


def _tensors(arrays: Arrays) -> dict[str, np.ndarray]:
    return {f"{split}.{key}": array for split, parts in arrays.items() for key, array in parts.items()}


def _metadata(
    name: str,
    entry: Entry | None,
    settings: Settings,
    arrays: Arrays,
    classes: tuple[str, ...],
    source: dict,
    is_id: bool,
) -> dict[str, Any]:
    metadata = {
        "name": name,
        "size": settings.size,
        "channels": settings.channels,
        "classes": list(classes),
        "splits": {split: len(parts["images"]) for split, parts in arrays.items()},
        "resize": chain_text(settings.size, settings.channels),
        "source": source,
        "licence": entry.licence if entry else "that of the pictures in the folder",
        "citation": entry.citation if entry else "",
        "settings": {
            key: list(value) if key == "heldout" else value
            for key, value in asdict(settings).items()
            if value is not False  # `skip_unreadable` stands here only where it is set
        },
    }
    if is_id:
        mean, std = _statistics(arrays["train"]["images"])
        metadata |= {"mean": mean, "std": std}
    return metadata


def _statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel of uint8 [N, C, H, W], on the scale of [0, 1], from
    the counts of the 256 levels: exact, and without a float copy of the images."""
    levels = np.arange(256) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        counts = sum(
            np.bincount(part[:, channel].ravel(), minlength=256) for part in np.array_split(images, 16)
        )
        share = counts / counts.sum()
        mean.append(float(share @ levels))
        std.append(float(np.sqrt(share @ (levels - mean[-1]) ** 2)))
    if min(std) == 0:
        raise InputError(
            "the ID set's training images are all of one grey level; nothing can be learnt from them"
        )
    return mean, std


def _corruptions(
    id_entry: Entry | None, settings: Settings, folder: Path | None
) -> tuple[Arrays, tuple[str, ...], dict]:
    """Corrupt ID train and ID validation images, each split from its own images only."""
    if id_entry is None and folder is None:
        raise InputError(
            "set 'corruptions' is made from the ID set, which is a folder of your own: give corruptions "
            "the same folder in params.yaml, e.g. corruptions: {role: tuning, folder: path/to/pictures}"
        )
    found = _source("the ID set", None if folder else id_entry, settings, role="id", folder=folder)
    count = min(settings.count, settings.limit or settings.count)
    arrays: Arrays = {}
    for split in ("train", "validation"):
        pictures, _ = found.splits[split]
        images, kept = _decoded(f"ID {split}", pictures, settings)
        rng = numpy_stream(settings.seed, "corruptions", split)
        corrupted, labels, index = corrupt(images, pictures.labels[kept], count, rng)
        arrays[split] = {"images": corrupted, "labels": labels, "index": index}
    return arrays, tuple(KINDS), {"made from": "ID train and ID validation images", "id": found.source}


def _synthetic(
    entry: Entry, settings: Settings, id_entry: Entry | None
) -> tuple[Arrays, tuple[str, ...], dict]:
    """Draw a set that needs no download."""
    count = min(settings.count, settings.limit or settings.count)
    rng = numpy_stream(settings.seed, "synthetic", entry.reader)
    shape = (count, settings.size, settings.channels)
    source: dict[str, Any] = {"made by": entry.reader}
    if entry.reader == "letters":
        raster = min(settings.size, (id_entry.native if id_entry else 0) or settings.size)
        (images, labels), classes = letters(*shape, raster, rng), tuple(LETTERS)
        source |= {"fonts": list(FONTS), "raster": raster}
    elif entry.reader == "photos":
        (images, labels), classes = photos(*shape, rng), PHOTOS
        folder = package_folder("sklearn", "datasets/images")
        source["sha256"] = digest([folder / f"{name}.jpg" for name in PHOTOS], folder)
    else:
        blocks = [
            min(_BLOCK, count - start) for start in range(0, count, _BLOCK)
        ]  # floats of one block at a time
        images = np.concatenate([NOISES[entry.reader](block, *shape[1:], rng) for block in blocks])
        labels, classes = np.full(count, -1), ()
    return {"test": {"images": images, "labels": labels.astype(np.int64)}}, classes, source


def _converted(name: str, found: Source, settings: Settings) -> tuple[Arrays, tuple[str, ...], dict]:
    """Pass every split through the chain."""
    arrays: Arrays = {}
    classes: tuple[str, ...] = ()
    source = dict(found.source)
    for split, (pictures, index) in found.splits.items():
        images, kept = _decoded(f"{name} {split}", pictures, settings)
        arrays[split] = {"images": images, "labels": pictures.labels[kept], "index": index[kept]}
        classes = pictures.classes
        if not kept.all():
            names = [os.path.relpath(pictures.images[row], found.root) for row in np.flatnonzero(~kept)]
            source["unreadable"] = {**source.get("unreadable", {}), split: names}
    return arrays, classes, source


def _decoded(name: str, pictures: Pictures, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Return (images that could be decoded, whether each picture could)."""
    kept = np.ones(len(pictures.labels), bool)
    skipped: list[int] | None = [] if settings.skip_unreadable else None
    images = convert(pictures.images, settings.size, settings.channels, name, skipped)
    kept[skipped or []] = False
    if not kept.any():
        raise InputError(f"{name}: none of the {len(kept)} pictures can be read")
    return images, kept


def _source(
    name: str,
    entry: Entry | None,
    settings: Settings,
    *,
    role: str,
    folder: Path | None,
    is_heldout: bool = False,
) -> Source:
    """Return the splits of a set that its role uses."""
    is_id = role == "id"
    read, source = read_source(name, entry, folder, role)
    root = Path() if folder is None else folder if folder.is_dir() else folder.parent
    if is_id or is_heldout:
        read = {split: (p, *_rows(name, p, settings, is_heldout)) for split, p in read.items()}
        splits = {split: (_subset(p, rows, names), rows) for split, (p, rows, names) in read.items()}
    else:
        splits = {split: (pictures, np.arange(len(pictures.labels))) for split, pictures in read.items()}
    if not is_id:
        return Source(_limited(name, _for_role(splits, settings, role), settings), source, root)
    if "" in splits:
        splits = _cut_test(*splits[""], settings)
    if len(splits["train"][0].classes) < 2:
        raise InputError(
            f"set {name!r} cannot be the ID set: it holds one class, and two classes are the least"
        )
    splits = _limited(name, _cut_validation(name, splits, settings), settings)
    for split, least in (("train", len(splits["train"][0].classes)), ("validation", 2)):
        if len(np.unique(splits[split][0].labels)) < least:
            raise InputError(
                f"set {name!r}: ID {split} holds images of fewer than {least} classes; "
                "raise data.limit or data.validation, or add pictures"
            )
    return Source(splits, source, root)


def _for_role(splits: Splits, settings: Settings, role: str) -> Splits:
    """Name the splits of a set beside the ID set as its role wants them. A tuning set without a validation
    split gives the share `settings.validation` to it, as the ID set does."""
    if role == "tuning" and "validation" in splits:
        return splits
    (pictures, index), *_ = splits.values()
    if role == "tuning":
        rng = numpy_stream(settings.seed, "tuning")
        rest, part = stratified_cut(pictures.labels, settings.validation, rng)
        cut = {"train": rest, "validation": part}
        return {split: (pictures.take(rows), index[rows]) for split, rows in cut.items()}
    return {"train" if role == "auxiliary" else "test": (pictures, index)}


def _rows(
    name: str, pictures: Pictures, settings: Settings, is_heldout: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return (positions, class names) of what the ID set keeps, or of what is held out of it."""
    heldout, classes = set(settings.heldout), pictures.classes
    if is_heldout and not heldout:
        raise InputError(
            f"set {name!r} needs at least one class in classes.heldout; take it out of `sets` else"
        )
    if heldout - set(classes) or (heldout and len(classes) - len(heldout) < 2):
        raise InputError(
            f"classes.heldout is {list(settings.heldout)}: name classes of the ID set so that two or more "
            f"remain; it has {', '.join(classes)}"
        )
    names = tuple(label for label in classes if (label in heldout) == is_heldout)
    wanted = [position for position, label in enumerate(classes) if label in names]
    return np.flatnonzero(np.isin(pictures.labels, wanted)), names


def _subset(pictures: Pictures, rows: np.ndarray, names: tuple[str, ...]) -> Pictures:
    """Return the pictures at `rows`, labelled by their position in `names`."""
    position = {label: index for index, label in enumerate(names)}
    table = np.array([position.get(label, -1) for label in pictures.classes], np.int64)
    chosen = pictures.take(rows) if len(rows) < len(pictures.labels) else pictures
    return Pictures(chosen.images, table[chosen.labels], names)


def _cut_validation(name: str, splits: Splits, settings: Settings) -> Splits:
    """Cut ID validation off ID train unless it came as a split of its own."""
    if "validation" not in splits:
        pictures, index = splits["train"]
        rest, part = stratified_cut(
            pictures.labels, settings.validation, numpy_stream(settings.seed, "validation")
        )
        splits |= {"train": (pictures.take(rest), index[rest])}
        splits |= {"validation": (pictures.take(part), index[part])}
    return {split: splits[split] for split in SPLITS}


def _limited(name: str, splits: Splits, settings: Settings) -> Splits:
    """Keep at most `limit` images of each split, every class in proportion."""
    out: Splits = {}
    for split, (pictures, index) in splits.items():
        if settings.limit and len(index) > settings.limit:
            rng = numpy_stream(settings.seed, "limit", split)
            rows = stratified_choice(pictures.labels, settings.limit, rng)
            pictures, index = pictures.take(rows), index[rows]
        if not len(index):
            raise InputError(
                f"set {name!r}: split {split} is empty; raise its share (data.validation or classes.test)"
            )
        out[split] = (pictures, index)
    return out


def _cut_test(pictures: Pictures, index: np.ndarray, settings: Settings) -> Splits:
    """Cut a stratified test share off a set without a published one."""
    rest, part = stratified_cut(pictures.labels, settings.test, numpy_stream(settings.seed, "test"))
    return {"train": (pictures.take(rest), index[rest]), "test": (pictures.take(part), index[part])}
