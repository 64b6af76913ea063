"""What the files of results must hold, so that a damaged one is named and not summarised.

A number that is missing would only become a gap, and one out of range a record, on a page that looks whole.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslood.core.errors import InputError, as_line
from sslood.core.files import load_json
from sslood.report.columns import METRICS
from sslood.report.frame import MISTAKES

SLACK = 1e-9  # of fractions, for the rounding errors of whoever computed them
HUGE = 1e300  # of numbers without a limit: none is infinite
STAGES = {"energies": "energy"}  # folders of results that are not called as their stage
KNOWN = ("held_out", "held_out_ssd", "alike")  # more fractions of some rows
LEFT_OUT = ("model", "detector", "set", "reason")
TIMES, SETS, LEVELS = ("before", "after"), ("validation", "auxiliary"), (0.05, 0.5, 0.95)
MEASURED = ("validation_accuracy", "validation_auroc", "validation_oscr")


@dataclass(frozen=True)
class Node:
    """A value in the JSON file at `path`, where `key` says, such as models.simclr.knn."""

    path: Path
    value: Any
    key: str = ""

    def wrong(self, what: str) -> InputError:
        """Return the error that says what is wrong here, and which stage to repeat."""
        folder = self.path.parent.name
        where = f"{self.path}: {self.key or 'its content'} {what}"
        return InputError(f"{where}; delete the file and run `dvc repro {STAGES.get(folder, folder)}` again")

    def not_a(self, kind: str) -> InputError:
        """Return the error that says what must be here, and what is."""
        return self.wrong(f"must be {kind}, found {as_line(repr(self.value), 40)}")

    def inner(self, name: object, value: Any) -> "Node":
        """Return a value below this one."""
        return Node(self.path, value, f"{self.key}.{name}".lstrip("."))

    def mapping(self) -> dict[str, Any]:
        """Return the mapping that is here."""
        if not isinstance(self.value, dict):
            raise self.not_a("a mapping")
        return self.value

    def items(self) -> Iterator[tuple[str, "Node"]]:
        """Yield the names and values of a mapping."""
        for name, value in self.mapping().items():
            yield name, self.inner(name, value)

    def nodes(self) -> list["Node"]:
        """Return the values of a list."""
        if not isinstance(self.value, list):
            raise self.not_a("a list")
        return [self.inner(place, value) for place, value in enumerate(self.value)]

    def has(self, name: str) -> bool:
        """Whether a mapping has this name."""
        return name in self.mapping()

    def __getitem__(self, name: str) -> "Node":
        if not self.has(name):
            raise self.inner(name, None).wrong("is missing")
        return self.inner(name, self.value[name])

    def number(self, low: float = -HUGE, high: float = HUGE) -> None:
        """Raise InputError for what is no number between two."""
        kind = "a number"
        if high < HUGE:
            kind = f"a number from {low:g} to {high:g}"
        elif low > -HUGE:
            kind = f"a number of at least {low:g}"
        is_number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not is_number or not low - SLACK <= self.value <= high + SLACK:
            raise self.not_a(kind)

    def count(self, low: float, high: float = HUGE) -> None:
        """Raise InputError for what is no whole number between two."""
        self.number(low, high)
        if not isinstance(self.value, int):
            raise self.not_a("a whole number")

    def fractions(self, names: Iterable[str]) -> None:
        """Raise InputError unless all of these are numbers from 0 to 1."""
        for name in names:
            self[name].number(0, 1)

    def text(self) -> None:
        """Raise InputError for what is no text."""
        if not isinstance(self.value, str):
            raise self.not_a("a text")


def check_evaluation(path: Path) -> None:
    """Raise InputError for the results of an evaluation that no stage has written so."""
    top = Node(path, load_json(path))
    for _, model in top["models"].items():
        for _, detector in model.items():
            for _, row in detector.items():
                _check_row(row)
    _check_left_out(top)
    if top.has("accuracy"):
        for _, value in top["accuracy"].items():
            value.number(0, 1)
    if top.has("chosen"):
        for name, entry in top["chosen"].items():
            if name.endswith(".auto.members"):
                _check_choice(entry)
    if top.has("mistakes"):
        for _, own in top["mistakes"].items():
            _check_mistakes(own)
    if top.has("members"):
        for _, model in top["members"].items():
            for _, member in model.items():
                member.fractions(("accuracy", "ece"))
    if top.has("sweep"):
        for ensemble, sweep in top["sweep"].items():
            _check_sweep(sweep, top["models"][ensemble])


def check_probe(path: Path) -> None:
    """Raise InputError for the accuracies of a probe that the stage has not written so."""
    top = Node(path, load_json(path))
    for _, model in top["models"].items():
        for _, probe in model.items():
            probe.fractions(("accuracy",))
            _check_mistakes(probe)
    _check_left_out(top)


def check_energies(path: Path) -> None:
    """Raise InputError for energies before and after a training that its stage has not written so."""
    top = Node(path, load_json(path))
    if top.has("left_out"):
        return
    levels, edges = top["levels"], top["edges"]
    for one in (*levels.nodes(), *edges.nodes()):
        one.number()
    if lacking := [level for level in LEVELS if level not in levels.value]:
        raise levels.wrong(f"lacks {lacking[0]}")
    for time in TIMES:
        for name in SETS:
            one = top[time][name]
            one["mean"].number()
            _check_numbers(one["quantiles"], len(levels.value))
            _check_numbers(one["counts"], len(edges.value) - 1, least=0)
    if top.has("outliers"):
        for name in ("n", "left_out"):
            top["outliers"][name].number(0)
    if top.has("tried"):
        _check_tried(top)


def _check_row(row: Node) -> None:
    """Every metric is needed: a mean over the sets would be one over other sets than its rivals'."""
    row.fractions(METRICS)
    for name in ("n_id", "n_ood"):
        row[name].count(1)
    for name, value in row.items():
        if name in KNOWN:
            value.number(0, 1)
        else:
            value.number(0)


def _check_left_out(top: Node) -> None:
    for entry in top["left_out"].nodes() if top.has("left_out") else ():
        for name in LEFT_OUT:
            entry[name].text()


def _check_choice(entry: Node) -> None:
    """What `auto` chose, and among what."""
    for member in entry["value"].nodes():
        member.text()
    for tried in entry["candidates"].nodes() if entry.has("candidates") else ():
        tried.fractions(("auroc",))
        for member in tried["members"].nodes():
            member.text()


def _check_mistakes(own: Node) -> None:
    """A measure may be absent, as that of a classifier without errors is."""
    for name, value in own.items():
        if name in MISTAKES and value.value is not None:
            value.number(0, 1)


def _check_sweep(sweep: Node, rows: Node) -> None:
    """rows: of the ensemble; those of k members are eloc_k, without a gap."""
    count = sum(name.removeprefix("eloc_").isdecimal() for name, _ in rows.items())
    for name in ("eloc", *(f"eloc_{k}" for k in range(1, count + 1))):
        _ = rows[name]
    for point in (sweep["chosen"], *sweep["points"].nodes()):
        for name in ("temperature", "epsilon"):
            point[name].number(0)
        point["target"].text()
    for point in sweep["points"].nodes():
        for name, value in point["auroc"].items():
            _ = rows["eloc"][name]
            value.number(0, 1)
    for _, own in sweep["disagreement"].items():
        own.fractions(("variation_ratio",))


def _check_numbers(numbers: Node, count: int, least: float = -HUGE) -> None:
    for one in numbers.nodes():
        one.number(least)
    if len(numbers.value) != count:
        raise numbers.wrong(f"must hold {count} numbers, found {len(numbers.value)}")


def _check_tried(top: Node) -> None:
    """The candidates of a training, and which of them was kept."""
    tried = top["tried"].nodes()
    for one in tried:
        for which in ("kept", "last"):
            one[which]["epoch"].number(0)
            one[which].fractions(MEASURED)
    top["best"].count(0, len(tried) - 1)
