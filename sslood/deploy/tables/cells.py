"""Values of some rows of a table, as arrays that were checked: the row and its ID stand in every message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError, as_line
from sslood.deploy.tables.arrow import lists_of, numbers_of, texts_of

SHOWN = 3  # rows that a message names


@dataclass(frozen=True)
class Rows:
    """Some rows of a file: number of the first in it, and their IDs."""

    where: Path
    start: int
    ids: Sequence[Any]

    def wrong(self, places: np.ndarray, what: str) -> InputError:
        """Return the error for rows at `places`, e.g. "row 3 (ID 'b.jpg') has no vector"."""
        named = [
            f"{self.start + at} (ID {as_line(repr(self.ids[at]), 80)})" for at in places[:SHOWN].tolist()
        ]
        some = ", ".join(named) + ", …" * (len(places) > SHOWN)
        return InputError(f"{self.where}, row{'s' * (len(places) > 1)} {some}: {what}")

    def matrix(
        self, columns: Mapping[str, Any], width: int | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (float32 [n, D], whether each row is missing [n], and whether it is merely too large [n]).

        columns: one of lists, or several of numbers. width: that rows must have, None for the first one's.
        Raises InputError for values that are no numbers, and naming a row of another width.
        """
        if len(columns) > 1:
            parts = [self._numbers(name, values, 1) for name, values in columns.items()]
            matrix, beyond = _float32(np.stack(parts, axis=1))
            return matrix, np.zeros(len(matrix), bool), _merely(matrix, beyond)
        ((name, values),) = columns.items()
        if isinstance(values, np.ndarray):
            rows = self._numbers(name, values, 2)
            lengths = np.full(len(rows), rows.shape[1])
        else:
            flat, lengths = lists_of(values) or (self._numbers(name, values, 1), np.ones(len(values), int))
        there = lengths >= 0
        width = int(lengths[there][0]) if width is None and there.any() else width or 0
        if len(other := np.flatnonzero(there & (lengths != width))):
            what = f"{name} is {lengths[other[0]]} wide, where the rows before are {width} wide"
            raise self.wrong(other[:1], f"{what}; all vectors must be of one model")
        if isinstance(values, np.ndarray):
            matrix, beyond = _float32(rows)
            return matrix, ~there, _merely(matrix, beyond)
        matrix, beyond = (
            np.full((len(lengths), width), np.nan, np.float32),
            np.zeros((len(lengths), width), bool),
        )
        matrix[there], beyond[there] = (part.reshape(int(there.sum()), width) for part in _float32(flat))
        return matrix, ~there, _merely(matrix, beyond)

    def _numbers(self, name: str, values: Any, ndim: int) -> np.ndarray:
        array = values if isinstance(values, np.ndarray) else numbers_of(values)
        if array is None or array.dtype.kind not in "fiu" or array.ndim != ndim:
            found = (
                f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else values.type
            )
            raise InputError(
                f"{self.where}: {name} holds {as_line(found, 80)}, expected numbers: a vector for each row"
            )
        return array

    def values(self, name: str, values: Any, what: str) -> list[Any]:
        """Return IDs or labels as a list of texts or integers; InputError, naming the row, for others."""
        found = values if isinstance(values, list) else texts_of(values)
        bad = np.array([type(one) not in (int, str) for one in found])
        if bad.any():
            first = found[int(bad.argmax())]
            says = f"has no {what}" if first is None else f"has the {what} {as_line(repr(first), 60)}"
            raise self.wrong(
                np.flatnonzero(bad)[:1], f"{says} in the column {name!r}; {what}s are texts or whole numbers"
            )
        return found


def _float32(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (float32, which finite numbers it cannot hold, and are infinite)."""
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(array, np.float32)
    return found, ~np.isfinite(found) & np.isfinite(array)


def _merely(matrix: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    """Return which rows would be finite if no number were beyond float32."""
    return beyond.any(axis=1) & (np.isfinite(matrix) | beyond).all(axis=1)
