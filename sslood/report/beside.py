"""Our results beside published figures: which belong together, and what differs in how they were made.

A figure is compared with ours if the ID set, the model, the detector and an OOD set are the same, by the
names of the files in `published`. The section `published` of the params adds which model, or
`model.detector`, of ours stands for which of a source.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sslood.core.errors import InputError
from sslood.core.settings import near, read_section
from sslood.report.cells import MISSING, percent
from sslood.report.published_figures import Row, Source, published_sources, read_source
from sslood.report.summary import Summary

Choices = dict[str, dict[str, str]]  # source -> name of ours -> published name
DERIVED = ("leaveout", "deep_ensemble")  # models that have a backbone of their own in their name


class Ours(NamedTuple):
    """A result as a fraction: mean and standard deviation over seeds (NaN for one), and their number."""

    mean: float
    std: float
    seeds: int

    def __str__(self) -> str:
        return percent(self.mean, self.std)


@dataclass(frozen=True)
class Line:
    """A published row and the model and detector of ours that stand beside it.

    id: name of our ID set. ours: by published metric, where we measure the same. images: OOD test images of
    ours, of all sets together. differs: sentences. Where the data differ, a line has one side only, see
    elsewhere.py: `model` is "", or the row's.
    """

    id: str
    source: Source
    row: Row
    model: str
    detector: str
    ours: Mapping[str, Ours]
    images: int
    differs: Sequence[str]


@dataclass(frozen=True)
class Networks:
    """The networks of the params: `backbone`, {backbone: its sizes}, {adopted model: its entry}."""

    backbone: str
    sizes: Mapping[str, Mapping[str, Any]]
    adopted: Mapping[str, Mapping[str, Any]]

    def of(self, model: str) -> str:
        """Return the full name of a model's network, such as wideresnet-40-2-30; "" if it is not known."""
        for name, entry in self.adopted.items():
            if name in (model, *_tails(model)):
                # short for torchvision's, see `sslood.nets.networks.build`
                return re.sub(r"^resnet(?=\d)", "torchvision_resnet-", str(entry.get("architecture", "")))
        named = [name for name in self.sizes if name in _tails(model) and model.startswith(DERIVED)]
        name = named[0] if named else self.backbone
        return "-".join([name, *map(str, self.sizes.get(name, {}).values())])


def _tails(model: str) -> list[str]:
    """Return what may be the name of a start in that of a model: "c" and "b_c" of "a_b_c"."""
    words = model.split("_")
    return ["_".join(words[place:]) for place in range(1, len(words))]


def read_choices(where: str) -> Choices:
    """Return the section `published` at FILE:KEY: {source: {name of ours: published name}}.

    A name is that of a model, or model.detector. InputError for a source or a published name that is unknown.
    """
    found: Choices = {}
    for name, pairs in read_section(where).items():
        if name not in published_sources():
            raise InputError(f"{where}: no published source {name!r}{near(name, published_sources())}")
        if not isinstance(pairs, Mapping):
            raise InputError(
                f"{where}.{name}: must map names of ours to published ones, found {pairs!r}; "
                f"e.g. {{resnet20: classifier}}"
            )
        rows = read_source(name).rows
        known = {row.model for row in rows} | {f"{row.model}.{row.detector}" for row in rows if row.detector}
        for ours, theirs in pairs.items():
            if not isinstance(theirs, str) or theirs not in known:
                raise InputError(f"{where}.{name}.{ours}: nothing published is called {theirs!r}"
                                 f"{near(theirs, sorted(known))}")  # fmt: skip
        found[name] = {str(ours): str(theirs) for ours, theirs in pairs.items()}
    return found


def compared(
    summary: Summary,
    sets: Mapping[str, Mapping[str, Any]],
    choices: Choices,
    networks: Networks,
    heldout: Collection[str] = (),
) -> list[Line]:
    """Return a line for each published row and model of ours that belong together, source by source.

    sets: the section `sets` of the params, whose sources say which published set is which. heldout: classes
    that the ID set's file lacks. No lines if there are any: it is another task then.
    """
    lines: list[Line] = []
    if heldout:
        return lines
    id_source = sets[summary.id].get("source")
    ours = {
        entry["source"]: name
        for name, entry in reversed(list(sets.items()))
        if name in summary.roles and "source" in entry and "derive" not in entry
    }
    rows = dict(iter(summary.rows.groupby(["model", "detector"], sort=False)))
    for name in published_sources():
        source = read_source(name)
        alike = [*source.alike(), *choices.get(name, {}).items()]
        for row in source.rows:
            if row.id == id_source:
                lines += _lines(summary, rows, source, row, alike, ours, networks)
    return lines


def _lines(
    summary: Summary,
    rows: Mapping[Any, pd.DataFrame],
    source: Source,
    row: Row,
    alike: Sequence[tuple[str, str]],
    sets: Mapping[str, str],
    networks: Networks,
) -> list[Line]:
    """Return the lines of one published row; `rows` of ours by (model, detector)."""
    lines = []
    there = [sets[one] for one in source.sets_of(row) if one in sets]
    absent = [one for one in source.sets_of(row) if one not in sets]
    for model, detector in standing_for(row, alike):
        images = 0
        if row.set:
            own = rows.get((model, detector), summary.rows.iloc[:0])
            own = own[own["set"].isin(there)]
            images = int(own.groupby("set")["n_ood"].first().sum())
            found = detection(own, len(there), source, row.values)
        else:
            found = classification(summary, model, source, row.values)
        if found:
            differs = _differences(source, row, model, absent, networks)
            lines.append(Line(summary.id, source, row, model, detector, found, images, differs))
    return lines


def standing_for(row: Row, alike: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the (model, detector) of ours that stand for a published row."""
    found = []
    for name, theirs in alike:
        model, _, detector = name.partition(".")
        published = theirs.partition(".")
        if published[0] == row.model and published[2] in ("", row.detector):
            if published[2] or detector in ("", row.detector):
                found.append((model, detector or row.detector))
    return list(dict.fromkeys(found))


def detection(rows: pd.DataFrame, sets: int, source: Source, names: Iterable[str]) -> dict[str, Ours]:
    """Return {metric of `names`: ours}: means over sets, then over the seeds that have all `sets`."""
    found = {}
    for name in names:
        metric = source.metrics[name].ours
        if metric in rows.columns:
            grouped = rows.groupby("seed", sort=False)[metric]
            found[name] = _over_seeds(grouped.mean()[grouped.count() == sets])
    return {name: one for name, one in found.items() if one.seeds}


def classification(summary: Summary, model: str, source: Source, names: Iterable[str]) -> dict[str, Ours]:
    """Return {metric of `names`: ours} of those that concern the classes of ID test images."""
    found = {}
    for name in names:
        metric, sign = source.metrics[name].ours, 1
        frame = summary.mistakes if metric == "ece" else summary.accuracy
        if metric == "error":
            metric, sign = "head", -1
        if metric in frame.columns:
            values = frame.loc[frame["model"] == model, metric].dropna()
            found[name] = _over_seeds(values if sign > 0 else 1 - values)
    return {name: one for name, one in found.items() if one.seeds}


def _over_seeds(values: pd.Series) -> Ours:
    numbers = values.to_numpy(float)
    std = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else float("nan")
    return Ours(float(np.mean(numbers)) if len(numbers) else float("nan"), std, len(numbers))


def _differences(
    source: Source, row: Row, model: str, absent: Sequence[str], networks: Networks
) -> list[str]:
    """Return what to know before comparing, the most telling first."""
    own, found = networks.of(model), []
    if own != row.network:
        found.append(f"network {row.network}, ours {own or 'another'}")
    if row.set and absent:
        total = len(source.sets_of(row))
        found.append(f"mean over {total} sets, ours over {total - len(absent)}, without {', '.join(absent)}")
    return found + [source.protocol[flag] for flag in row.flags]


def described(line: Line) -> tuple[str, str, str]:
    """Return the names of a line, ours and the published one, and its OOD set with our images.

    Of a line with one side only, "–" for the other, and the ID set before the OOD set.
    """
    row = line.row
    ours = f"{line.model} · {line.detector}" if line.detector else line.model
    theirs = f"{row.model} · {row.detector}" if row.detector else row.model
    on = row.set or "ID"
    if line.images:
        on = f"{on} ({line.images:,})"
    if not ours or not theirs:
        on = f"{row.id}: {on}"
    return ours or MISSING, f"{theirs} ({row.what})" if row.what else theirs or MISSING, on


def cell(line: Line, metric: str) -> str:
    """Return "ours / published" of a metric in %, "–" for what is missing."""
    published, ours = line.row.values.get(metric), line.ours.get(metric)
    if published is None and ours is None:
        return MISSING
    return f"{ours or MISSING} / {published.text if published else MISSING}"
