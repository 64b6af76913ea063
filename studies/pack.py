"""The way back from a lent machine, results and state as a few files of bounded size, and the way there.

    python -m studies.run cifar10 --budget 540 --pack out     # out/study-00, study-01, …
    python -m studies.run cifar10 --budget 540 --unpack out   # on a machine that has nothing yet

Results come first, then the record of times, what became of the parts, what commands printed, checkpoints of
what was cut off, and what stages made, each whole or not at all: models, then scores and tables, the small
ones first, as far as there is room. Image sets and embeddings are made again.
"""

import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath

from sslood.core.errors import InputError
from sslood.data.sets.fetching.unpack import SAFELY
from studies.parts import BROUGHT, OUTPUT, STATE

TOTAL, PIECE = 64 << 20, 16 << 20  # bytes in all, and of one file
EDGE = 1 << 16  # bytes kept free for the archive's own words
ENTRY = 1 << 10  # bytes of a file in the archive beside its own
MODELS, AGAIN = "data/models", ("data/sets", "data/embeddings")
Files = list[tuple[Path, str]]  # a file, and its name in the archive


def pack(folder: Path, results: Path, target: Path, total: int = TOTAL, piece: int = PIECE) -> int:
    """Write `target`/study-00, … of at most `piece` bytes each and `total` together.

    folder: the study's work folder. Old pieces are replaced. Returns how many files they hold.
    """
    room, content, held = total - EDGE, BytesIO(), 0
    with tarfile.open(fileobj=content, mode="w:gz", compresslevel=1) as archive:
        for files in _wanted(folder, results):
            size = _size(files)
            if size <= room:
                for path, name in files:
                    archive.add(path, name)
                room, held = room - size, held + len(files)
    data = content.getvalue()
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("study-[0-9][0-9]"):
        old.unlink()
    for place in range(0, len(data), piece):
        (target / f"study-{place // piece:02d}").write_bytes(data[place : place + piece])
    return held


def _wanted(folder: Path, results: Path) -> Iterator[Files]:
    """Yield files that are packed together or not at all, what matters most first."""
    for path in _below(results):
        yield [(path, f"results/{path.relative_to(results).as_posix()}")]
    states = {path: path.with_name(BROUGHT) for path in sorted(folder.glob(f"*/{STATE}"))}
    others = [
        folder / "record.json",
        *sorted(folder.glob(f"*/{OUTPUT}")),
        *sorted(folder.glob("*/scratch/*.pt")),
    ]
    for path, place in [*states.items(), *((path, path) for path in others)]:
        if path.is_file():
            yield [(path, f"work/{place.relative_to(folder).as_posix()}")]
    yield from _made(folder)


def _made(folder: Path) -> Iterator[Files]:
    """Yield what each stage made: half of it would have the stage run again."""
    found = []
    for top in folder.glob("made/*"):
        files = [(path, f"work/{path.relative_to(folder).as_posix()}") for path in _below(top)]
        if files and top.suffix != ".part" and not any((top / place).exists() for place in AGAIN):
            found.append((not (top / MODELS).exists(), _size(files), files))
    yield from (files for *_, files in sorted(found))


def _below(top: Path) -> list[Path]:
    return sorted(path for path in top.rglob("*") if path.is_file())


def _size(files: Files) -> int:
    return sum(path.stat().st_size + ENTRY for path, _ in files)


def unpack(source: Path, folder: Path, results: Path) -> None:
    """Put what `pack` wrote into the two folders, where nothing of that name is there yet.

    Results of a part that is there are left as they are, as a whole: its files belong to one run. Raises
    InputError if a piece is missing or damaged.
    """
    there = {path.name for path in results.glob("*") if path.is_dir()}
    pieces = [source / f"study-{place:02d}" for place in range(len(list(source.glob("study-[0-9][0-9]"))))]
    if not pieces:
        raise InputError(f"{source}: no file study-00 in it, which --pack writes")
    try:
        content = BytesIO(b"".join(piece.read_bytes() for piece in pieces))
        with tarfile.open(fileobj=content, mode="r:gz") as archive:
            for member in archive.getmembers():  # all are read before the first is written
                top, _, name = member.name.partition("/")
                place = {"results": results, "work": folder}[top]
                is_kept = top == "results" and name.partition("/")[0] in there
                if not is_kept and not (place / name).exists():
                    member.name = name
                    if not member.isfile() or PurePosixPath(name).is_absolute() or ".." in name.split("/"):
                        raise tarfile.TarError(f"{name!r} is no file below its folder")
                    archive.extract(member, place, **SAFELY)
    except (OSError, EOFError, KeyError, tarfile.TarError) as error:
        raise InputError(f"{source}: not what --pack wrote, or not all of it ({error})") from None
