"""Readers of published formats: files on disk to images, labels and class names.

A reader takes the located files (published name -> file, or folder of the unpacked content) and the
options of the catalogue, and returns the split asked for. Nothing is resized here.
"""

import gzip
import hashlib
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.data.sets.images import SUFFIXES, Images, read_bytes


@dataclass(frozen=True)
class Pictures:
    """One split: images (uint8 [N, H, W(, 3)] or paths), labels int64 [N] (-1 unknown), class names."""

    images: Images
    labels: np.ndarray
    classes: tuple[str, ...]

    def take(self, rows: np.ndarray) -> "Pictures":
        """Return the pictures at positions `rows`, in that order."""
        images = self.images
        chosen = images[rows] if isinstance(images, np.ndarray) else [images[row] for row in rows]
        return Pictures(chosen, self.labels[rows], self.classes)


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


def cifar(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """CIFAR-10 and CIFAR-100, python version. Every pickle is matched with its published md5 first."""
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


def idx(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """MNIST and its kin: gzipped idx files of images and labels."""
    image_name, label_name = options[split]
    images, labels = _idx(files[image_name], 3), _idx(files[label_name], 1).astype(np.int64)
    classes = tuple(options["classes"])
    _fitting(files[label_name], images, labels, len(classes))
    return Pictures(images, labels, classes)


def _fitting(path: Path, images: Images, labels: np.ndarray, classes: int) -> None:
    """Raise InputError unless there is one label in 0..classes-1 for each image; `path` holds the labels."""
    if len(images) != len(labels):
        raise InputError(f"{path}: {len(labels)} labels do not fit {len(images)} images; fetch it again")
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        raise InputError(
            f"{path}: the label of image {outside[0]} does not fit the {classes} classes; fetch it again"
        )


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the uint8 array of one idx file, gzipped or not."""
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be unpacked ({error}); fetch it again") from None
    start = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:start], ">u4")) if len(content) >= start else ()
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) - start != np.prod(shape, dtype=np.int64):
        raise InputError(f"{path}: not a complete idx file of {dimensions} dimensions; fetch it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def svhn(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """SVHN, cropped digits: a Matlab file with X [32, 32, 3, N] and y [N, 1], where 10 means digit 0."""
    path = files[options[split]]
    content = _matlab(path, "X", "y")
    if content["X"].ndim != 4 or content["X"].shape[:3] != (32, 32, 3) or content["X"].dtype != np.uint8:
        raise InputError(f"{path}: X is not 32 x 32 x 3 x N bytes; it is not the set's file, fetch it again")
    images, labels = content["X"].transpose(3, 0, 1, 2), content["y"].reshape(-1).astype(np.int64)
    classes = tuple("0123456789")
    _fitting(path, images, labels - 1, len(classes))
    return Pictures(images, labels % 10, classes)


def _matlab(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Return arrays of a Matlab file by name."""
    from scipy.io import loadmat  # not above: it takes a tenth of a second, and two sets need it
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path, variable_names=names)
        return {name: np.asarray(content[name]) for name in names}
    except (MatReadError, KeyError, ValueError, OSError, IndexError, TypeError, NotImplementedError) as error:
        raise InputError(f"{path}: not the set's Matlab file ({error}); fetch it again") from None


def tiny_imagenet(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """Tiny ImageNet's validation images, in the order of val_annotations.txt."""
    (folder,) = files.values()
    table, names = folder / "val/val_annotations.txt", folder / "words.txt"
    for path in (table, names, folder / "wnids.txt"):
        if not path.is_file():
            raise InputError(f"{path}: missing; Tiny ImageNet is incomplete, fetch or unpack it again")
    wnids = sorted((folder / "wnids.txt").read_text().split())
    words = dict(line.split("\t", 1) for line in names.read_text().splitlines() if "\t" in line)
    rows = [line.split("\t")[:2] for line in table.read_text().splitlines() if line.strip()]
    position = {wnid: index for index, wnid in enumerate(wnids)}
    paths = [folder / "val/images" / name for name, _ in rows]
    labels = np.array([position.get(wnid, -1) for _, wnid in rows], np.int64)
    _fitting(table, paths, labels, len(wnids))
    return Pictures(paths, labels, tuple(words.get(wnid, wnid).split(",")[0] for wnid in wnids))


def stl10(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """STL-10, binary version: 3 x 96 x 96 bytes an image, column by column; labels 1 to 10."""
    (folder,) = files.values()
    content = {}
    for name in ("class_names.txt", f"{split}_X.bin", f"{split}_y.bin"):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: missing; the set is incomplete, fetch or unpack it again")
        content[name] = (folder / name).read_bytes()
    images, labels = (np.frombuffer(content[f"{split}_{kind}.bin"], np.uint8) for kind in "Xy")
    if len(images) % (3 * 96 * 96):
        raise InputError(f"{folder}/{split}_X.bin: cut short; fetch or unpack it again")
    classes = tuple(content["class_names.txt"].decode().split())
    images, labels = images.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1), labels.astype(np.int64) - 1
    _fitting(folder / f"{split}_y.bin", images, labels, len(classes))
    return Pictures(images, labels, classes)


def npy(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """One NumPy file of uint8 [N, H, W, 3], no labels. It is mapped, never unpickled."""
    (path,) = files.values()
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a complete NumPy file of numbers ({error}); fetch it again") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise InputError(f"{path}: holds {images.dtype} {list(images.shape)}, not images of bytes")
    return Pictures(images, np.full(len(images), -1, np.int64), ())


def flowers(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """Flowers-102: pictures by number; labels (1 to 102) and the numbers of each split in Matlab files."""
    folder = files["102flowers.tgz"]
    labels, numbers = (
        _matlab(files[name], key)[key].reshape(-1).astype(np.int64)
        for name, key in (("imagelabels.mat", "labels"), ("setid.mat", options[split]))
    )
    if len(numbers) and not 1 <= numbers.min() <= numbers.max() <= len(labels):
        raise InputError(f"{files['setid.mat']}: names pictures beyond the {len(labels)} that have labels")
    paths = [folder / f"image_{number:05}.jpg" for number in numbers]
    _fitting(files["imagelabels.mat"], paths, labels[numbers - 1] - 1, 102)
    return Pictures(paths, labels[numbers - 1] - 1, tuple(str(number) for number in range(1, 103)))


def sun397(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """SUN397: ClassName.txt lists folders as /a/abbey or /a/apartment_building/outdoor."""
    (folder,) = files.values()
    names = folder / "ClassName.txt"
    if not names.is_file():
        raise InputError(f"{names}: missing; the set is incomplete, fetch or unpack it again")
    classes = tuple(line.strip().lstrip("/") for line in names.read_text().splitlines() if line.strip())
    paths = [Path(path) for path in list_images(folder) if os.path.basename(path).startswith("sun_")]
    position = {name: index for index, name in enumerate(classes)}
    found = [position.get(path.relative_to(folder).parent.as_posix(), -1) for path in paths]
    _fitting(names, paths, np.array(found, np.int64), len(classes))
    titles = tuple(name.split("/", 1)[1] for name in classes)
    return Pictures(paths, np.array(found, np.int64), titles)


def folders(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """One folder a split, each with one folder per class."""
    name = options[split]
    return tree({name: files[name]}, split, options)


def tree(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """A folder of images: one folder per class, or flat (labels -1). `flat: true` ignores inner folders."""
    (folder,) = files.values()
    places = _image_places(folder)
    if not places:
        raise InputError(f"{folder}: no image in it; known endings: {', '.join(SUFFIXES)}")
    names = ["" if len(parts) == 1 else parts[0] for parts in places]
    classes = () if options.get("flat") or set(names) == {""} else tuple(sorted(set(names)))
    if "" in classes:
        loose = folder.joinpath(*places[names.index("")])
        raise InputError(f"{loose}: stands beside class folders; use either one folder per class or none")
    position = {name: index for index, name in enumerate(classes)}
    paths = [os.path.join(folder, *parts) for parts in places]
    return Pictures(paths, np.array([position.get(name, -1) for name in names], np.int64), classes)


def list_images(folder: Path) -> list[str]:
    """Return the path of every image file below `folder` (no hidden ones), sorted."""
    return [os.path.join(folder, *parts) for parts in _image_places(folder)]


def _image_places(folder: Path) -> list[tuple[str, ...]]:
    """Return the parts of every image file's path below `folder`, sorted (Path objects would be slow)."""
    found: list[tuple[str, ...]] = []
    folders: list[tuple[str, ...]] = [()]
    while folders:
        inner = folders.pop()
        with os.scandir(os.path.join(folder, *inner)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if not _loops(entry):
                        folders.append((*inner, entry.name))
                elif entry.name.lower().endswith(SUFFIXES) and (entry.is_file() or entry.is_symlink()):
                    found.append((*inner, entry.name))
    return sorted(found)


def _loops(folder: os.DirEntry) -> bool:
    """Whether a folder is a link to one that it lies in, which would never come to an end."""
    if not folder.is_symlink():
        return False
    target = os.path.realpath(folder.path)
    return os.path.commonpath((target, os.path.realpath(os.path.dirname(folder.path)))) == target


def read_digits(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits: uint8 [1797, 8, 8] scaled from 0..16 to 0..255, labels int64 [1797]."""
    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",")
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return images, table[:, -1].astype(np.int64)


Reader = Callable[[Mapping[str, Path], str, Mapping[str, Any]], Pictures]
READERS: dict[str, Reader] = {
    "cifar": cifar,
    "idx": idx,
    "svhn": svhn,
    "tiny_imagenet": tiny_imagenet,
    "tree": tree,
    "stl10": stl10,
    "npy": npy,
    "flowers": flowers,
    "sun397": sun397,
    "folders": folders,
}


def digest(paths: Sequence[str | Path], root: Path) -> str:
    """Return one sha256 over the names below `root` and the contents of `paths`, in order.

    A link to a file that is not there counts as such: whoever reads the picture decides what that means.
    """
    total, start = hashlib.sha256(), len(os.path.join(root, ""))
    for path in map(os.fspath, paths):
        content = hashlib.sha256(read_bytes(path)).hexdigest() if os.path.exists(path) else "missing"
        total.update(f"{path[start:].replace(os.sep, '/')}\0{content}\n".encode(errors="surrogateescape"))
    return total.hexdigest()
