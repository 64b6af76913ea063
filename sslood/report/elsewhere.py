"""Published tables below our rows where the data differ, for the sources that a profile names.

`beside.compared` shows a published figure where the ID and OOD sets are ours. A small twin of a published
system has other sets, so nothing of its source stands there. `summarize.sources` names the source; its table
is then shown as a whole: our rows of the systems that it is about, and below them its own, flagged.
"""

from collections.abc import Mapping, Sequence

from sslood.core.errors import known
from sslood.report.beside import Choices, Line, Networks, classification, detection, standing_for
from sslood.report.published_figures import Row, Source, published_sources, read_source
from sslood.report.summary import Summary

OTHER = "other data: not comparable"


def with_sources(
    lines: Sequence[Line], names: Sequence[str], summary: Summary, choices: Choices, networks: Networks
) -> list[Line]:
    """Return `lines`, and for each source of `names` what they lack: our rows, then the published ones.

    InputError for a name that is no published source. A source without rows adds none.
    """
    found = list(lines)
    for source in read_sources(names):
        there = [line for line in lines if line.source.name == source.name]
        seen = {(line.model, line.detector) for line in there}
        systems = [key for key in _systems(source, choices.get(source.name, {})) if key not in seen]
        found += [line for key in systems for line in _ours(summary, source, *key, networks)]
        compared = {id(line.row) for line in there}  # rows are read once, and are not hashable
        found += [_published(summary, source, row) for row in source.rows if id(row) not in compared]
    return found


def read_sources(names: Sequence[str]) -> list[Source]:
    """Return the sources of these names; InputError for an unknown one, which lists those that there are."""
    return [
        read_source(known(name, "published source", published_sources())) for name in dict.fromkeys(names)
    ]


def _systems(source: Source, chosen: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the (model, detector) of ours that stand for something of a source, on whatever data."""
    alike = [*source.alike(), *chosen.items()]
    return list(dict.fromkeys(key for row in source.rows for key in standing_for(row, alike)))


def _ours(summary: Summary, source: Source, model: str, detector: str, networks: Networks) -> list[Line]:
    """Return our rows of one system: one per OOD set, or one of its classes if it names no detector."""
    differs = [f"network {networks.of(model) or 'not known'}"]

    def line(name: str, values: Mapping, images: int) -> Line:
        row = Row(summary.id, "", "", "", name, "", {}, ())
        return Line(summary.id, source, row, model, detector, values, images, differs)

    if not detector:
        values = classification(summary, model, source, source.metrics)
        return [line("", values, 0)] if values else []
    rows = summary.rows
    own = rows[(rows["model"] == model) & (rows["detector"] == detector)]
    lines = []
    for name, part in own.groupby("set", sort=False):
        values = detection(part, 1, source, source.metrics)
        lines.append(line(str(name), values, int(part["n_ood"].iloc[0])))
    return [line for line in lines if line.ours]


def _published(summary: Summary, source: Source, row: Row) -> Line:
    differs = [OTHER, f"network {row.network}", *(source.protocol[flag] for flag in row.flags)]
    return Line(summary.id, source, row, "", "", {}, 0, differs)
