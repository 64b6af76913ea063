"""1,797 handwritten digits of 8x8 pixels, shipped with scikit-learn."""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslood.data.sets.pictures import Pictures, Splits, digest
from sslood.data.sets.roles.roles import Role
from sslood.data.sets.source import PictureSource, SetSettings, package_folder


@dataclass(frozen=True, kw_only=True)
class _Digits(PictureSource):
    def read(self, name: str, role: Role, settings: SetSettings) -> tuple[Splits, dict[str, Any]]:
        """Return all digits, which come without splits, from the file that scikit-learn ships."""
        file = package_folder("sklearn", "datasets/data") / "digits.csv.gz"
        checked = {"sha256": digest([file], file.parent), "checked": "shipped with scikit-learn"}
        images, labels = read_digits(file)
        return {"": Pictures(images, labels, tuple("0123456789"))}, {"files": {file.name: checked}}


def read_digits(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the digits: uint8 [1797, 8, 8] scaled from 0..16 to 0..255, labels int64 [1797]."""
    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",")
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return images, table[:, -1].astype(np.int64)


SOURCE = _Digits(
    licence="CC BY 4.0 (UCI Optical Recognition of Handwritten Digits)",
    citation="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
)
