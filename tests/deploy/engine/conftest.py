"""A detector, and pictures for it: digits, two of them broken, as files and as `score` decides about them."""

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslood.commands import score
from tests.kit.detector import write_detector
from tests.kit.small import call, digit_images

BROKEN = {"b/broken.png": b"\x89PNG no picture", "empty.jpg": b""}


@pytest.fixture(scope="session")
def detector(tmp_path_factory) -> Path:
    return write_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder of 300 digits, of noise, and of what is no picture although it is called one."""
    folder = tmp_path_factory.mktemp("engine") / "pictures"
    for name in ("a", "b/c"):
        (folder / name).mkdir(parents=True)
    images = np.concatenate(
        [digit_images()[0][:300], np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8))]
    )
    for number, image in enumerate(images.astype(np.uint8)):
        where = folder / ("a" if number % 2 else "b/c") / f"{number:03d}.png"
        Image.fromarray(image[0]).resize((9 + number % 5, 11)).save(where)
    (folder / "a" / "=1+1,ü 100%41.png").write_bytes((folder / "a" / "001.png").read_bytes())
    for name, content in BROKEN.items():
        (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("notes")
    return folder


@pytest.fixture(scope="session")
def decided(tmp_path_factory, detector, pictures) -> dict[str, dict[str, str]]:
    """What `score` decides about each readable picture, by the path in its table."""
    out = tmp_path_factory.mktemp("score") / "s.csv"
    assert call(score.main, detector=detector, images=pictures, out=out, skip_unreadable=None) == 0
    with open(out, newline="", encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def rows_in(folder: Path | str) -> dict[str, dict]:
    """Return the rows of the parts by path; no path may be there twice."""
    rows = [row for file in sorted(Path(folder).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    found = {row["path"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def check_same(found: dict[str, dict], decided: dict[str, dict[str, str]]) -> None:
    """Compare rows of the engine with those of `score`: all decisions are equal."""
    read = {path: row for path, row in found.items() if row["reason"] is None}
    assert {*read} == {*decided}
    for path, row in read.items():
        one = decided[path]
        assert row["p_value"] == float(one["p_value"]) and row["predicted_class"] == one["predicted_class"]
        assert row["is_ood"] == (one["is_ood"] == "true")
        assert row["score"] == pytest.approx(float(one["score"]), rel=1e-5)


def write_tar(path: Path, folder: Path, mode: str = "w") -> Path:
    """Write the files of a folder as an archive."""
    with tarfile.open(path, mode) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                content = file.read_bytes()
                member = tarfile.TarInfo(file.relative_to(folder).as_posix())
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path
