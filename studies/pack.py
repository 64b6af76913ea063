"""The way back from a lent machine, results and state as a few files of bounded size, and the way there.

    python -m studies.run cifar10 --budget 540 --pack out     # out/study-00, study-01, …
    python -m studies.run cifar10 --budget 540 --unpack out   # on a machine that has nothing yet

Results come first, then the record of times, what commands printed, checkpoints of what was cut off, and
models, the small ones first, as far as there is room. Image sets and embeddings are made again.
"""

import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath

from sslood.core.errors import InputError
from sslood.data.sets.fetching.unpack import SAFELY
from studies.parts import OUTPUT

TOTAL, PIECE = 64 << 20, 16 << 20  # bytes in all, and of one file
EDGE = 1 << 16  # bytes kept free for the archive's own words


def pack(folder: Path, results: Path, target: Path, total: int = TOTAL, piece: int = PIECE) -> int:
    """Write `target`/study-00, … of at most `piece` bytes each and `total` together.

    folder: the study's work folder. Old pieces are replaced. Returns how many files they hold.
    """
    room, content, held = total - EDGE, BytesIO(), 0
    with tarfile.open(fileobj=content, mode="w:gz", compresslevel=1) as archive:
        for path, name in _wanted(folder, results):
            size = path.stat().st_size + 1024
            if size <= room:
                archive.add(path, name)
                room, held = room - size, held + 1
    data = content.getvalue()
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("study-[0-9][0-9]"):
        old.unlink()
    for place in range(0, len(data), piece):
        (target / f"study-{place // piece:02d}").write_bytes(data[place : place + piece])
    return held


def _wanted(folder: Path, results: Path) -> Iterator[tuple[Path, str]]:
    """Yield (file, name in the archive), what matters most first."""
    for path in sorted(results.rglob("*")):
        if path.is_file():
            yield path, f"results/{path.relative_to(results).as_posix()}"
    models = [path for path in folder.glob("made/*/data/models/**/*.safetensors") if path.is_file()]
    state = [
        folder / "record.json",
        *sorted(folder.glob(f"*/{OUTPUT}")),
        *sorted(folder.glob("*/scratch/*.pt")),
    ]
    for path in [*state, *sorted(models, key=lambda path: (path.stat().st_size, path))]:
        if path.is_file():
            yield path, f"work/{path.relative_to(folder).as_posix()}"


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
