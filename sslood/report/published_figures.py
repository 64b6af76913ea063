"""Published figures as data: what others print, how they measure it, and what their systems had seen.

A file of the folder `published` is one source. Its rows are text in CSV, so that a figure keeps the digits
that were printed, "90.93 ± 0.23" with its spread over runs; all are in %. A row names ID set, network, model,
detector and OOD set (or a group of sets, over which it is a mean; none for figures of a classifier) by the
names of this project where it has one. `metrics` says of each column what it means and which metric of ours
it is, if any; `protocol` what a reader has to know before comparing, for all rows (`always`) or those that
name it; `models` which models of ours are compared without being asked for.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path

from sslood.core.errors import InputError
from sslood.core.settings import load_params

FOLDER = Path(__file__).parent / "published"
KEYS = ("id", "network", "model", "detector", "set")  # columns of every source
# What `protocol` may name: each source says in its own words what it is there.
PROTOCOL = {
    "trained_on_test": "ID test images were trained on",
    "epoch_on_test": "the epoch was chosen on test images",
    "settings_on_test": "settings were chosen on the OOD test sets",
    "tuning_source": "settings were chosen on images of the source of a test set, or on ID test images",
    "settings": "where settings were chosen",
    "test_stream": "unlabelled test images were learnt from",
    "outliers": "auxiliary outliers were trained against",
    "synthesised": "outliers made from ID images were trained against",
    "weights": "pretraining saw more than ID train",
    "labels": "labels of ID train were used",
    "sizes": "numbers of test images",
    "sets": "the test sets are not ours",
    "artefacts": "how the test sets were made gives them away",
    "one_class": "another task",
    "one_run": "no spread over runs",
    "rerun": "not run by the authors",
    "reported": "not run again by those who publish the table",
    "authors": "run by the authors of a rival",
    "best_epoch": "the best epoch was reported, not the last",
    "fresh_head": "where the training starts",
    "raw_features": "a variant of the detector",
    "views": "a variant of the detector",
    "fractals": "another set of pictures is mixed in",
    "inputs": "other images",
    "online": "another probe",
    "epochs": "length of the training",
    "time": "how long the training took, and on what",
    "listed": "a figure that only a list of benchmarks has",
    "repeated": "test images are looked at several times",
    "batch": "size of the batches",
    "stem": "a variant of the network",
}


@dataclass(frozen=True)
class Definition:
    """A column of figures: what it means, and the metric of ours that measures the same, or None."""

    means: str
    ours: str | None


@dataclass(frozen=True)
class Value:
    """A figure as a fraction, its spread over runs (None if none is printed), and the text in %."""

    mean: float
    std: float | None
    text: str


@dataclass(frozen=True)
class Row:
    """The figures of one system on one OOD set or group of sets; `set` is "" for figures of a classifier.

    what: tells rows apart that agree in all else. flags: keys of the source's protocol.
    """

    id: str
    network: str
    model: str
    detector: str
    set: str
    what: str
    values: Mapping[str, Value]
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """One publication. groups: {name: sets}; models: {published model: models of ours that are alike}."""

    name: str
    title: str
    link: str
    origin: str
    metrics: Mapping[str, Definition]
    groups: Mapping[str, Sequence[str]]
    models: Mapping[str, Sequence[str]]
    protocol: Mapping[str, str]
    rows: Sequence[Row]

    def sets_of(self, row: Row) -> Sequence[str]:
        """Return the sets that a row's figures are the mean over."""
        return self.groups.get(row.set, (row.set,))

    def alike(self) -> list[tuple[str, str]]:
        """Return (model of ours, published model) of those that are compared without being asked for."""
        own = dict.fromkeys(row.model for row in self.rows if row.model not in self.models)
        pairs = [(ours, model) for model, names in self.models.items() for ours in names]
        return [*((model, model) for model in own), *pairs]


def published_sources() -> list[str]:
    """Return the names of all sources, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def read_source(name: str) -> Source:
    """Return a source by its name; InputError if its file is broken."""
    path = FOLDER / f"{name}.yaml"
    content = load_params(path)
    try:
        metrics = {key: Definition(one["means"], one.get("is")) for key, one in content["metrics"].items()}
        rows = [_row(line, metrics, content["always"]) for line in csv.DictReader(StringIO(content["rows"]))]
        for flag in {flag for row in rows for flag in row.flags}:
            content["protocol"][flag]  # each has a text
        return Source(
            name,
            content["title"],
            content["link"],
            content["from"],
            metrics,
            content.get("groups", {}),
            content["models"],
            content["protocol"],
            rows,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path}: not a source of published figures: {error!r}; see its neighbours"
        ) from None


def _row(line: Mapping[str, str], metrics: Mapping[str, Definition], always: Sequence[str]) -> Row:
    values = {name: _value(line[name]) for name in metrics if line[name]}
    flags = dict.fromkeys([*always, *line["flags"].split()])
    names = {key: line[key] for key in KEYS}
    return Row(**names, what=line.get("what", ""), values=values, flags=tuple(flags))


def _value(text: str) -> Value:
    """Return what "90.93 ± 0.23" or "90.93" says, as fractions."""
    mean, _, std = text.partition(" ± ")
    return Value(float(mean) / 100, float(std) / 100 if std else None, text)
