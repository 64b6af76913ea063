"""Boxes from annotations or a detector's results, as a list that every command takes as pictures.

COCO: a JSON file of `images` and `annotations`, or a list of results; `bbox` is left, top, width, height in
pixels. PASCAL VOC: a folder of XML files, one per picture; pixels count from 1, and xmax and ymax are inside
the box. YOLO: a folder of text files, one per picture: class, centre, width and height as shares of the
picture, and perhaps a confidence.
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from sslood.core.errors import InputError, as_line
from sslood.core.files import atomic
from sslood.core.names import cell, path_cell
from sslood.data.sets.kinds import enable_heif, is_heif
from sslood.data.sets.tree import Scan, scan

HEADER = ("path", "x0", "y0", "x1", "y1", "label", "confidence")
NAMES = ("classes.txt", "obj.names", "data.names")  # of the classes of YOLO, a line each
OVER = 1  # pixels by which rounding may put a box outside its picture
_MOST = 1 << 30  # bytes of a file of annotations


@dataclass(frozen=True)
class Boxed:
    """A box of a picture: edges x0, y0, x1, y1 in pixels, class ("" if unknown), a detector's confidence."""

    picture: str
    edges: tuple[float, float, float, float]
    label: str = ""
    confidence: float | None = None

    @property
    def least(self) -> float:
        """The shorter side in pixels."""
        return min(self.edges[2] - self.edges[0], self.edges[3] - self.edges[1])


def read_boxes(annotations: Path, images: Path) -> list[Boxed]:
    """Return the boxes of a COCO file, or of a folder of VOC's or YOLO's files, for the pictures of a folder.

    Raises InputError, naming file and entry, for what is none of these, for a box without area or of numbers
    that are not finite, and for a picture that is not in `images`.
    """
    pictures = _Pictures(images)
    if annotations.is_file():
        found = _coco(annotations, pictures)
    elif annotations.is_dir():
        kinds = {suffix: sorted(annotations.rglob(f"*{suffix}")) for suffix in (".xml", ".txt")}
        if not any(kinds.values()) or all(kinds.values()):
            raise InputError(f"{annotations}: holds {_count(kinds)}; name a folder of the one or the other")
        found = (
            _voc(kinds[".xml"], pictures) if kinds[".xml"] else _yolo(annotations, kinds[".txt"], pictures)
        )
    else:
        raise InputError(
            f"{annotations}: no such file or folder; name a COCO file, or a folder of VOC's or YOLO's"
        )
    boxes = list(found)
    if not boxes:
        raise InputError(f"{annotations}: holds no box")
    return boxes


def _count(kinds: Mapping[str, Sequence[Path]]) -> str:
    return ", ".join(f"{len(files)} {suffix} files" for suffix, files in kinds.items())


class _Pictures:
    """The pictures of a folder, found by their path, their name or their name without ending."""

    def __init__(self, folder: Path):
        found: Scan = scan(folder)
        found.check_any()
        self.folder = folder
        self.places: dict[str, list[str]] = {}
        self.taken: dict[str, str] = {}  # path -> the name with a folder that it was found by
        for parts in found.places:
            path, stem = found.path(parts), os.path.splitext(parts[-1])[0]
            for key in {"/".join(parts), parts[-1], stem, "/".join((*parts[:-1], stem))}:
                self.places.setdefault(key, []).append(path)

    def find(self, name: str, where: str) -> str:
        """Return the path of a picture; InputError unless there is one of this name, and it has no other."""
        for key in (name, name.rpartition("/")[2], os.path.splitext(name)[0], name.zfill(12)):
            if paths := self.places.get(key):
                if len(paths) > 1:
                    raise InputError(f"{where}: {name!r} may be {paths[0]} or {paths[1]}; rename one")
                self._take(paths[0], name, where)
                return paths[0]
        raise InputError(f"{where}: there is no picture {name!r} in {self.folder}")

    def _take(self, path: str, name: str, where: str) -> None:
        """Refuse a second name for a picture where both name a folder: one of them is another picture."""
        if "/" in name and (first := self.taken.setdefault(path, name)) != name:
            raise InputError(
                f"{where}: {first!r} and {name!r} would both be {path}; name the folder that holds theirs"
            )


def _boxed(picture: str, edges: Iterable[Any], where: str, label: str, confidence: Any = None) -> Boxed:
    """Return a box; InputError unless its numbers are finite and it has an area."""
    try:
        x0, y0, x1, y1 = (float(edge) for edge in edges)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: its box is not four numbers; correct or remove it") from None
    box = f"the box ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
    if not np.isfinite([x0, y0, x1, y1]).all():
        raise InputError(f"{where}: {box} has a number that is not finite; correct or remove it")
    if x1 <= x0 or y1 <= y0:
        raise InputError(f"{where}: {box} has no area; correct or remove it")
    return Boxed(picture, (x0, y0, x1, y1), label, _sure(confidence, where))


def _sure(confidence: Any, where: str) -> float | None:
    """Return a detector's confidence, if there is one; InputError unless it is a finite number."""
    if confidence is None:
        return None
    try:
        found = float(confidence)
    except (TypeError, ValueError, OverflowError):
        found = float("nan")
    if not np.isfinite(found):
        said = as_line(repr(confidence), 40)
        raise InputError(f"{where}: its confidence {said} is no finite number; correct or remove it")
    return found


def _coco(file: Path, pictures: _Pictures) -> Iterator[Boxed]:
    if file.stat().st_size > _MOST:
        raise InputError(f"{file}: more than 1 GiB of annotations; cut it into parts")
    try:
        content = json.loads(file.read_bytes())
        results = isinstance(content, list)
        entries = iter(content if results else content["annotations"])
        names = {} if results else {one["id"]: one["file_name"] for one in content["images"]}
        images = [] if results else content["images"]
        sizes = {one["id"]: (one.get("width"), one.get("height")) for one in images}
        classes = {} if results else {one["id"]: one["name"] for one in content.get("categories", [])}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{file}: no COCO file ({type(error).__name__}: {as_line(error)})") from None
    for place, entry in enumerate(entries):
        where = f"{file}, {'result' if results else 'annotation'} {place}"
        try:
            image, (left, top, width, height) = entry["image_id"], map(float, entry["bbox"])
            name = str(image) if results else names[image]
            kind = entry.get("category_id", "")
            label = str(classes.get(kind, kind))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(
                f"{where}: lacks a bbox of four numbers or its picture, or its class is none "
                f"({as_line(error)})"
            ) from None
        if not entry.get("iscrowd"):  # a region of many objects
            edges = (left, top, left + width, top + height)
            box = _boxed(pictures.find(str(name), where), edges, where, label, entry.get("score"))
            if not _fits(box, sizes.get(image, ())):
                _check_fits(box, where)
            yield box


def _fits(box: Boxed, size: Sequence[Any]) -> bool:
    """Whether a box ends within the size that a file says of its picture; True if it says none."""
    known = len(size) == 2 and all(type(side) in (int, float) for side in size)
    return not known or all(ceil(end) <= side + OVER for end, side in zip(box.edges[2:], size, strict=True))


def _check_fits(box: Boxed, where: str) -> None:
    """Raise InputError if a box ends outside its picture, which may be another than the file says."""
    if not _fits(box, size := _size(box.picture)):
        raise InputError(
            f"{where}: the box ends at x1 = {box.edges[2]:g}, y1 = {box.edges[3]:g}, outside the picture of "
            f"{size[0]} x {size[1]} pixels; correct or remove it"
        )


def _voc(files: Sequence[Path], pictures: _Pictures) -> Iterator[Boxed]:
    for file in files:
        try:
            root = ElementTree.parse(file).getroot()
        except (ElementTree.ParseError, OSError, ValueError) as error:
            raise InputError(f"{file}: no XML file ({as_line(error)})") from None
        for place, entry in enumerate(root.iter("object")):
            where = f"{file}, object {place}"
            texts = [entry.findtext(f"bndbox/{edge}", "") for edge in ("xmin", "ymin", "xmax", "ymax")]
            try:
                x0, y0, x1, y1 = map(float, texts)
            except ValueError:
                raise InputError(f"{where}: its bndbox is not four numbers, but {texts}") from None
            picture = pictures.find(root.findtext("filename") or file.stem, where)
            yield _boxed(picture, (x0 - 1, y0 - 1, x1, y1), where, entry.findtext("name", "").strip())


def _yolo(folder: Path, files: Sequence[Path], pictures: _Pictures) -> Iterator[Boxed]:
    known = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    try:
        classes = known.read_text(encoding="utf-8").splitlines() if known else []
    except ValueError as error:
        raise InputError(f"{known}: is no UTF-8 text ({as_line(error)}); save it as that") from None
    for file in files:
        if file.name in NAMES:
            continue
        lines = [line.split() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
        if not any(lines):
            continue  # a picture without an object
        picture = pictures.find(file.relative_to(folder).with_suffix("").as_posix(), str(file))
        width, height = _size(picture)
        for number, words in enumerate(lines, start=1):
            if not words:
                continue
            where = f"{file}, line {number}"
            try:
                kind, (x, y, w, h, *rest) = int(words[0]), map(float, words[1:])
                if len(rest) > 1:
                    raise ValueError
            except ValueError:
                raise InputError(f"{where}: is no line `class x y width height [confidence]`") from None
            if not all(0 <= share <= 1 for share in (x, y, w, h)):
                raise InputError(f"{where}: x, y, width and height must be shares from 0 to 1")
            label = classes[kind] if 0 <= kind < len(classes) else str(kind)
            edges = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            yield _boxed(picture, edges, where, label, *rest)


def _size(picture: str) -> tuple[int, int]:
    """Return width and height of a picture once it is upright."""
    try:
        with open(picture, "rb") as file:
            if is_heif(file.read(12)):
                enable_heif()
        with Image.open(picture) as opened:
            turned = opened.getexif().get(0x0112, 1) >= 5
            return opened.size[::-1] if turned else opened.size
    except Exception as error:  # whatever a decoder raises
        raise InputError(f"{picture}: cannot be read ({as_line(error)}); repair or remove it") from None


def save_boxes(out: str | Path, boxes: Iterable[Boxed]) -> None:
    """Write boxes as a list with the columns of HEADER; paths below its folder are relative to it.

    A number that ends less than a pixel outside the picture is left as it is: whoever reads the list cuts it.
    """
    folder = os.path.abspath(Path(out).parent)
    with atomic(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for box in boxes:
            path = os.path.abspath(box.picture)
            inside = os.path.commonpath([path, folder]) == folder
            name = os.path.relpath(path, folder) if inside else path
            edges = [f"{edge:.2f}".rstrip("0").rstrip(".") for edge in _within(box.edges)]
            sure = "" if box.confidence is None else f"{box.confidence:.6g}"
            writer.writerow([path_cell(name), *edges, cell(box.label), sure])


def _within(edges: tuple[float, ...]) -> Iterator[float]:
    """Cut what rounding puts left of or above the picture."""
    return (max(0.0, edge) if edge > -1 else edge for edge in edges)
