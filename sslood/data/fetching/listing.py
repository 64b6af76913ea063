"""What the catalogue knows, as a table to read."""

from collections.abc import Mapping
from pathlib import Path

from sslood.data.fetching.catalogue import Entry
from sslood.data.fetching.fetch import cache_folder, mirror


def whereabouts(entry: Entry) -> str:
    """Say where a set is, "built in", "mirror", "installed" or "cache", or that it is missing: "to fetch", or
    "by hand" where nobody offers it for free download and your mirror folder must hold it. InputError if
    the environment names a mirror folder that is not there."""
    if not entry.published:
        return "built in"
    needed = [file for file in entry.published if file.split in ("", "test")] or entry.published
    if isinstance(folder := mirror(), Path):  # what is behind an address is not asked
        places = [
            [folder / place / file.name for place in (*file.mirror, "")] + [folder / f for f in file.folders]
            for file in needed
        ]
        if all(any(path.exists() for path in paths) for paths in places):
            return "mirror"
    if all(any((Path(place) / file.name).is_file() for place in file.installed) for file in needed):
        return "installed"
    kept = all((cache_folder() / entry.name / file.name).is_file() for file in needed)
    if kept:
        return "cache"
    return "to fetch" if all(file.sources for file in needed) else "by hand"


def listing(catalogue: Mapping[str, Entry]) -> str:
    """Return one line per set: name, where its test files are, images, size of the download, licence."""
    rows = [("set", "where", "images", "download", "licence")]
    for entry in catalogue.values():
        images = " + ".join(f"{count:,} {split}" for split, count in entry.counts.items()) or "as asked"
        size = sum(file.size for file in entry.published)
        download = (
            f"{size / 1e6:,.0f} MB"
            if size
            else ("unknown" if any(f.sources for f in entry.published) else "-")
        )
        rows.append((entry.name, whereabouts(entry), images, download, entry.licence))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]])
        for row in rows
    )
