"""Formats that several publishers share: files on disk to images, labels and class names.

A reader takes the located files (published name -> file, or folder of the unpacked content), the split, and
the options of the source. Nothing is resized here. A format that one set alone has is read in its source.
"""

import gzip
import hashlib
import math
import pickle
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError, as_line
from sslood.data.sets.fetching.fetch import MAX_CONTENT
from sslood.data.sets.fetching.published import Published
from sslood.data.sets.pictures import Pictures, check_labels
from sslood.data.sets.tree import tree

Reader = Callable[[Mapping[str, Path], str, Mapping[str, Any]], Pictures]
TINY_IMAGENET = Published(
    name="tiny-imagenet-200.zip",
    sources=("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
    md5="90528d7ca1a48142e341f4ef8d21d0de",
    size=248100043,
    inside="tiny-imagenet-200",
    folders=("tiny-imagenet-200",),
)


def cifar(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """CIFAR-10 and CIFAR-100, python version. Every pickle is matched with its published md5 first.

    options: {file: md5} of each split and of `meta`; `label_key` and `names_key` within the pickles;
    `images_only`: the split that a plain folder of images holds.
    """
    (folder,) = files.values()
    if not (folder / next(iter(options["meta"]))).is_file() and split == options.get("images_only"):
        return tree({folder.name: folder}, split, {})
    (meta,) = (pickle.loads(_matched(folder / name, md5)) for name, md5 in options["meta"].items())
    images, labels = [], []
    for name, md5 in options[split].items():
        batch = pickle.loads(_matched(folder / name, md5), encoding="latin1")
        images.append(batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.extend(batch[options["label_key"]])
    return Pictures(np.concatenate(images), np.array(labels, np.int64), tuple(meta[options["names_key"]]))


def _matched(path: Path, md5: str) -> bytes:
    """Return the bytes of `path` after comparing with the published md5."""
    if not path.is_file():
        raise InputError(f"{path}: missing; the set is incomplete, fetch or unpack it again")
    content = path.read_bytes()
    if hashlib.md5(content).hexdigest() != md5:
        raise InputError(
            f"{path}: its md5 is not the published {md5}; fetch or unpack it again (it was not opened)"
        )
    return content


def idx(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """MNIST and its kin: idx files of images and labels, gzipped or not.

    options: (images, labels) of each split, by name; `classes`.
    """
    image_name, label_name = options[split]
    images, labels = _idx(files[image_name], 3), _idx(files[label_name], 1).astype(np.int64)
    classes = tuple(options["classes"])
    check_labels(files[label_name], images, labels, len(classes))
    return Pictures(images, labels, classes)


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the uint8 array of one idx file."""
    start = 4 + 4 * dimensions
    try:
        with open(path, "rb") as file:
            opener: Any = gzip.open if file.read(2) == b"\x1f\x8b" else open
        with opener(path, "rb") as file:
            head = file.read(start)
            shape = tuple(map(int, np.frombuffer(head[4:], ">u4"))) if len(head) == start else ()
            expected = min(math.prod(shape), MAX_CONTENT)
            content = file.read(expected + 1)  # no more than that: a small file can unpack to very much
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be unpacked ({as_line(error)}); fetch it again") from None
    if head[:4] != bytes((0, 0, 8, dimensions)) or len(content) != math.prod(shape):
        raise InputError(f"{path}: not a complete idx file of {dimensions} dimensions; fetch it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_words(path: Path) -> str:
    """Return the text of a file of a set; InputError if it is missing or no text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: missing; the set is incomplete, fetch or unpack it again") from None
    except UnicodeError as error:
        raise InputError(f"{path}: not text ({as_line(error)}); fetch or unpack it again") from None


def tiny_imagenet(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """Tiny ImageNet's validation images, in the order of val_annotations.txt."""
    (folder,) = files.values()
    table = folder / "val/val_annotations.txt"
    wnids = sorted(read_words(folder / "wnids.txt").split())
    words = dict(
        line.split("\t", 1) for line in read_words(folder / "words.txt").splitlines() if "\t" in line
    )
    rows = [line.split("\t")[:2] for line in read_words(table).splitlines() if line.strip()]
    if wrong := [row for row in rows if len(row) < 2 or "/" in row[0]]:
        raise InputError(f"{table}: {wrong[0]!r} is no name and class; fetch or unpack it again")
    position = {wnid: index for index, wnid in enumerate(wnids)}
    paths = [folder / "val/images" / name for name, _ in rows]
    labels = np.array([position.get(wnid, -1) for _, wnid in rows], np.int64)
    check_labels(table, paths, labels, len(wnids))
    return Pictures(paths, labels, tuple(words.get(wnid, wnid).split(",")[0] for wnid in wnids))
