"""A real run with own pictures of awkward kinds, from folders to tables: `python -m tests.awkward FOLDER`.

It writes pictures, runs every stage on them with small networks, and prints how each ended, then the tables.
Three ID sets: classes with odd names in split folders, one class, and no classes.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.kit.walk import CORRUPTIONS, own, walk

CLASSES = ("007", "Ölbild", "a b")
SMALL: dict[str, Any] = {
    "runs": {"energy_modes": [], "leaveout_backbones": [], "network_models": []},
    "evaluate": {"models": ["simclr", "classifier_scratch"]},
}


def picture(random: np.random.Generator, kind: int, size: tuple[int, int] = (24, 20)) -> np.ndarray:
    """Return grey values in [0, 1] of a pattern of this kind, with noise: [height, width]."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]] / 8.0
    pattern = 0.5 + 0.3 * np.sin((kind + 1) * x + kind * y)
    return np.clip(pattern + random.normal(0, 0.1, pattern.shape), 0, 1)


def save(path: bytes, grey: np.ndarray, number: int) -> None:
    """Write a picture in one of several formats: 8 bit, 12 bit in 16, palette, rotated by EXIF, no ending."""
    eight = Image.fromarray((255 * grey).astype(np.uint8))
    twelve = Image.fromarray((4095 * grey).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    ending, image, how = (
        (b".png", eight, {"format": "PNG"}),
        (b".PNG", twelve, {"format": "PNG"}),
        (b".gif", eight.convert("P"), {"format": "GIF"}),
        (b".jfif", eight, {"format": "JPEG", "exif": exif}),
        (b"", eight.convert("RGB"), {"format": "WEBP"}),
        (b".tiff", twelve, {"format": "TIFF"}),
    )[number % 6]
    with open(path + ending, "wb") as file:
        image.save(file, **how)


def folder_of(place: Path, kind: int, count: int, *, seed: int, size: tuple[int, int] = (24, 20)) -> Path:
    """Write `count` pictures whose names are awkward: spaces, orders to a terminal or spreadsheet, bytes."""
    place.mkdir(parents=True)
    random, odd = (
        np.random.default_rng(seed),
        (b"a b", b"=1+1", b"-rf", b"\xff\xfe", b"new\rline", "ü".encode()),
    )
    for number in range(count):
        name = odd[number] if number < len(odd) else b"%d" % number
        save(os.path.join(os.fsencode(place), name), picture(random, kind, size), number)
    return place


def awkward(folder: Path) -> dict[str, dict[str, Any]]:
    """Write all pictures; return {name of the case: {"sets": …}}."""
    for place, split in enumerate(("Training", "VAL", "test")):
        for kind, name in enumerate(CLASSES):
            folder_of(folder / "split" / split / name, kind, (24, 8, 10)[place], seed=9 * place + kind)
    (folder / "split/test/007/broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    folder_of(folder / "one" / "only", 1, 60, seed=30)
    folder_of(folder / "none", 2, 60, seed=31)
    six = folder_of(folder / "six outliers", 5, 6, seed=32)
    tall = folder_of(folder / "tall", 6, 12, seed=33, size=(10, 80))
    listed = folder / "list.csv"
    rows = [
        f"{os.path.relpath(path, folder)},x" for path in sorted(tall.iterdir()) if path.name.isprintable()
    ]
    listed.write_text("path,label\n" + "\n".join(rows) + "\n")
    os.link(next(tall.glob("6*")), tall / "the same")
    others = {
        "six": own("near", six),
        "tall": own("far", tall, skip_unreadable=True),
        "listed": own("far", listed),
        "corruptions": CORRUPTIONS,
    }
    return {
        name: {"sets": {"mine": own("id", folder / name, skip_unreadable=True), **others}}
        for name in ("split", "one", "none")
    }


def main(folder: Path) -> int:
    """Run each case; return the number of stages that failed."""
    failed = 0
    for name, changes in awkward(folder / "pictures").items():
        start = time.monotonic()
        run = folder / name
        for stage, (status, output) in walk(run, SMALL, changes).items():
            lines = output.strip().splitlines() or [""]
            print(f"{name:6} {stage:28} {'ok' if not status else status}  {lines[-1][:400]!a}", flush=True)
            failed += status != 0
        table = run / "metrics" / "table.md"
        print(f"{name}: {time.monotonic() - start:.0f} s")
        print(table.read_text() if table.is_file() else "no tables")
    return failed


if __name__ == "__main__":
    sys.exit(min(1, main(Path(sys.argv[1]))))
