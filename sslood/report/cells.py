"""Tables and their cells, built once and shown as Markdown and as HTML."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

MISSING = "–"


def percent(mean: float, std: float | None = None, decimals: int = 1) -> str:
    """Return "93.4 ± 1.2" from fractions, without the spread if there is none; "–" for NaN."""
    if pd.isna(mean):
        return MISSING
    text = f"{100 * mean:.{decimals}f}"
    return text if std is None or pd.isna(std) else f"{text} ± {100 * std:.{decimals}f}"


class Code(str):
    """A name of the params: of a model, detector or set; shown in a fixed-width font."""


@dataclass(frozen=True)
class Figure:
    """A result: mean and spread of the main and the second metric, as fractions, and what qualifies them."""

    mean: float
    std: float
    second: float
    second_std: float
    marks: str = ""
    interval: str = ""
    best: bool = False

    def __str__(self) -> str:
        main = percent(self.mean, self.std)
        first = f"**{main}**" if self.best else main
        behind = f"{first}{self.marks} {self.interval}".rstrip()
        return f"{behind} / {percent(self.second, self.second_std)}"

    @property
    def heat(self) -> float:
        """Strength of the cell's colour: 0 at chance, 1 at AUROC 1 or 0.

        The fourth power spends most of the scale on 0.85 to 1, where detectors differ.
        """
        return 0.0 if pd.isna(self.mean) else min(1.0, abs(self.mean - 0.5) * 2) ** 4


@dataclass(frozen=True)
class Table:
    """Cells by row; the first column, and those of `left`, hold words. notes: small print under a heading."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Figure]]
    left: Collection[str] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


def markdown(table: Table) -> str:
    """Return a Markdown table; columns of numbers are right-aligned."""
    words = {table.header[0], *table.left}
    rule = [":---" if name in words else "---:" for name in table.header]
    lines = [[_plain(cell) for cell in row] for row in (table.header, *table.rows)]
    lines.insert(1, rule)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(cell: str | Figure) -> str:
    text = str(cell).replace("|", r"\|")  # a class may be called so; it would begin another cell
    return f"`{text}`" if isinstance(cell, Code) else text
