"""What is known about all sources, as a table to read."""

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

from sslood.data.sets.fetching.fetch import cache_folder, mirror, places_in_mirror
from sslood.data.sets.published_source import PublishedSource
from sslood.data.sets.source import Source

HEADER = ("source", "where", "images", "download", "licence", "what")


def whereabouts(source: Source) -> str:
    """Say where the test files of a source are, or that they are missing.

    "built in", "yours" (your own pictures), "mirror", "installed" or "cache"; "to fetch", or "by hand" where
    nobody offers them for free download and your mirror folder must hold them. Raises InputError if the
    environment names a mirror folder that does not exist.
    """
    if not isinstance(source, PublishedSource):
        return "yours" if "folder" in source.takes else "built in"
    needed = [file for file in source.published if file.split in ("", "test")] or source.published
    if isinstance(folder := mirror(), Path):  # what is behind an address is not asked
        places = [chain.from_iterable(places_in_mirror(folder, file)) for file in needed]
        if all(any(path.exists() for path in paths) for paths in places):
            return "mirror"
    if all(any((Path(place) / file.name).is_file() for place in file.installed) for file in needed):
        return "installed"
    if all((cache_folder() / source.name / file.name).is_file() for file in needed):
        return "cache"
    return "to fetch" if all(file.sources for file in needed) else "by hand"


def _row(source: Source) -> tuple[str, ...]:
    counts: Mapping[str, int] = source.counts if isinstance(source, PublishedSource) else {}
    files = source.published if isinstance(source, PublishedSource) else ()
    images = " + ".join(f"{count:,} {split}" for split, count in counts.items()) or "-"
    size = sum(file.size for file in files)
    download = f"{size / 1e6:,.0f} MB" if size else "unknown" if any(f.sources for f in files) else "-"
    return source.name, whereabouts(source), images, download, source.licence, source.description


def listing(sources: Iterable[Source]) -> str:
    """Return a table with a line per source: see HEADER and `whereabouts`."""
    rows = [HEADER, *map(_row, sources)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
