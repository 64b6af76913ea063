"""Vectors that a model elsewhere has made, as the tensors of an embeddings file.

A folder holds NumPy files: SET.SPLIT.npy [N, D], a vector for each image, SET.SPLIT.labels.npy [N], class
indices, where they are known, and SET.SPLIT.logits.npy [N, K] if a classifier gave any. Another `Reader`
takes these from other files. From a vision-language model besides: labels.npy [K, D], the text vector
of each ID class in order, and negatives.npy [M, D], those of words that are no ID class. classes.txt names
the classes, a line each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np

from sslood.core.errors import InputError, as_line
from sslood.core.rows import unit_rows
from sslood.ood.kit.outputs import chunks

SHOWN = 5  # rows that a message names
SCALE = 100.0  # of CLIP's logits: its cosines over its temperature 0.01
Arrays = dict[str, np.ndarray]
# what numpy.load raises of a damaged file: its header is Python's text, and may be any
DAMAGED = (
    ValueError, OSError, EOFError, TokenError, SyntaxError, TypeError, OverflowError, IndexError
)  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Of the N images of a split: the file, vectors float32 [N, D], labels int64 [N], logits [N, K]."""

    path: Path
    vectors: np.ndarray
    labels: np.ndarray
    logits: np.ndarray | None = None


Reader = Callable[[Path, str], Split]  # (folder, "SET.SPLIT") -> what it holds of them


def read_npy(folder: Path, name: str) -> Split:
    """Return a split from NumPy files; InputError, naming the file, for what cannot be."""
    path, logits = folder / f"{name}.npy", folder / f"{name}.logits.npy"
    rows = _vectors(path)
    labels = _labels(folder / f"{name}.labels.npy", len(rows))
    return Split(path, rows, labels, _vectors(logits) if logits.exists() else None)


def read_vectors(
    folder: Path,
    splits: Mapping[str, Sequence[str]],
    id_name: str,
    read: Reader = read_npy,
    names: Sequence[str] | None = None,
) -> tuple[Arrays, list[str], dict[str, dict[str, int]]]:
    """Return (tensors of an embeddings file, names of the classes, images of each set and split).

    splits: set -> its splits, all of which the folder must hold. names: of the classes, if not in a file of
    the folder. With vectors of the labels the file has a classifier, too, whose logits are 100 times the
    cosines with them. Raises InputError, naming the file, for one that is missing or no array of numbers, of
    another width than the others, or with rows that are NaN; for labels that are no class; for no class at
    all; for logits of another width or of some splits only.
    """
    words = {part: _vectors(folder / f"{part}.npy") for part in ("labels", "negatives") if _is(folder, part)}
    if "negatives" in words and "labels" not in words:
        raise InputError(f"{folder}: holds negatives.npy without labels.npy, the vectors of the classes")
    width = words["labels"].shape[1] if words else None
    tensors: Arrays = {}
    counts: dict[str, dict[str, int]] = {}
    paths: dict[str, Path] = {}
    for name, parts in splits.items():
        for split in parts:
            found = read(folder, f"{name}.{split}")
            path, rows = found.path, found.vectors
            paths[f"{name}.{split}"] = path
            width = rows.shape[1] if width is None else width
            if rows.shape[1] != width:
                against = "the vectors of the labels are" if words else "those before are"
                raise InputError(f"{path}: vectors are {rows.shape[1]} wide, but {against} {width} wide")
            tensors[f"{name}.{split}.features"] = rows
            tensors[f"{name}.{split}.labels"] = found.labels
            if found.logits is not None:
                tensors[f"{name}.{split}.logits"] = _logits(found, words)
            counts.setdefault(name, {})[split] = len(rows)
    for part, rows in words.items():
        if rows.shape[1] != width:
            raise InputError(
                f"{folder / part}.npy: vectors are {rows.shape[1]} wide, but others {width} wide"
            )
        if len(zero := np.flatnonzero(~rows.any(axis=1))):
            raise InputError(f"{folder / part}.npy: row {zero[0]} is zero, and so has no direction")
        tensors[f"concepts.{part}"] = rows
    known = tensors[f"{id_name}.train.labels"]
    logits = {key: rows for key, rows in tensors.items() if key.endswith(".logits")}
    wide = [len(words["labels"])] if words else [rows.shape[1] for rows in logits.values()]
    if not wide and known.max(initial=-1) >= len(known) and not (folder / "classes.txt").exists():
        raise InputError(
            f"{paths[f'{id_name}.train']}: an image has label {known.max()}, but there are only {len(known)} "
            "ID training images; number the classes from 0, or name them in classes.txt"
        )
    classes = _classes(folder, wide[0] if wide else int(known.max(initial=-1)) + 1, names)
    _check_logits(folder, logits, counts, len(classes))
    for split in splits[id_name]:
        labels = tensors[f"{id_name}.{split}.labels"]
        if labels.max(initial=-1) >= len(classes):
            path = folder / f"{id_name}.{split}.labels.npy"
            path = path if path.exists() else paths[f"{id_name}.{split}"]
            raise InputError(f"{path}: holds class {labels.max()}, but there are {len(classes)} classes")
    return tensors | _classifier(tensors, words.get("labels")), classes, counts


def _logits(found: Split, words: Arrays) -> np.ndarray:
    if words:
        raise InputError(f"{found.path}: there are logits, and labels.npy gives others; remove one of them")
    if found.logits is None or len(found.logits) != len(found.vectors):
        count = 0 if found.logits is None else len(found.logits)
        raise InputError(
            f"{found.path}: there are {count} rows of logits for {len(found.vectors)} vectors; give each "
            "image one"
        )
    return found.logits


def _check_logits(
    folder: Path, logits: Arrays, counts: Mapping[str, Mapping[str, int]], classes: int
) -> None:
    """Raise InputError unless all splits have logits of all classes, or none has any."""
    for where in [f"{name}.{split}" for name, splits in counts.items() for split in splits]:
        if logits and (rows := logits.get(f"{where}.logits")) is None:
            raise InputError(
                f"{folder}: {where} has no logits, but {min(logits)} are there; give all or none"
            )
        if logits and rows is not None and rows.shape[1] != classes:
            raise InputError(f"{folder}: the logits of {where} are {rows.shape[1]} wide; {classes} classes")


def _classifier(tensors: Arrays, labels: np.ndarray | None) -> Arrays:
    """Return the head and the logits that the vectors of the labels make, if there are any."""
    if labels is None:
        return {}
    weight = SCALE * unit_rows(labels.astype(np.float64))
    made: Arrays = {}
    for key, rows in tensors.items():
        if key.endswith(".features"):
            logits = [unit_rows(piece.astype(np.float64)) @ weight.T for piece in chunks(rows)]
            made[key.replace(".features", ".logits")] = np.concatenate(logits).astype(np.float32)
            # the head is that of directions, so features are stored as these
            made[key] = np.concatenate([unit_rows(one.astype(np.float64)) for one in chunks(rows)]).astype(
                "f4"
            )
    return made | {"head.weight": weight.astype(np.float32), "head.bias": np.zeros(len(weight), np.float32)}


def _is(folder: Path, part: str) -> bool:
    return (folder / f"{part}.npy").exists()


def _load(path: Path) -> np.ndarray:
    """Return the array of a file; InputError if there is none. Nothing is unpickled."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: is missing; write the vectors of these images there") from None
    except DAMAGED as error:
        reason = as_line(error).partition(". Use `allow_pickle")[0]  # numpy's advice, which is not ours
        raise InputError(f"{path}: is no array that numpy.load can read ({reason})") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: holds several arrays; save one by numpy.save")
    return array


def _vectors(path: Path) -> np.ndarray:
    """Return vectors [N, D] as float32; InputError if they are none, or rows are not finite."""
    array = _load(path)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: holds an array of {array.dtype} of shape {array.shape}; expected numbers [N, D]"
        )
    with np.errstate(over="ignore"):
        rows = np.concatenate([piece.astype(np.float32) for piece in chunks(array)])
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        named = ", ".join(map(str, bad[:SHOWN])) + ", …" * (len(bad) > SHOWN)
        raise InputError(
            f"{path}: {len(bad)} of {len(rows)} vectors are NaN, infinite or beyond float32 (rows {named})"
        )
    return rows


def _labels(path: Path, count: int) -> np.ndarray:
    """Return class indices int64 [N], -1 for all if there is no file; InputError for anything else."""
    if not path.exists():
        return np.full(count, -1)
    labels = _load(path)
    fit = labels.shape == (count,) and labels.dtype.kind in "iu"
    if not fit or labels.min() < -1 or labels.max() > np.iinfo(np.int64).max:  # of uint64
        raise InputError(
            f"{path}: holds an array of {labels.dtype} of shape {labels.shape}; expected {count} class "
            "indices from 0 (or -1, unknown), one for each vector"
        )
    return labels.astype(np.int64)


def _classes(folder: Path, count: int, names: Sequence[str] | None) -> list[str]:
    """Return the names of the classes, numbers without classes.txt; InputError for another count, or none."""
    path = folder / "classes.txt"
    if not count:
        raise InputError(f"{folder}: no class is known; give labels.npy, or labels of the ID training images")
    if names is not None and len(names) == count:
        return list(names)
    if not path.exists():
        return [str(number) for number in range(count)]
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 ({as_line(error)})") from None
    if len(names) != count:
        raise InputError(f"{path}: names {len(names)} classes, but there are {count}")
    return names
