"""Folders and lists of pictures as people, phones, other systems and attackers leave them.

Every trial makes its own folder, runs `download` or `score` on it, and compares with what is in the folder.
"""

import csv
import io
import os
import random
import shutil
import socket
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, redirect_stdout
from functools import cache, partial
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from sslood.commands import score
from sslood.core.files import load_tensors
from stages import download
from tests.data.commands import download_words
from tests.kit.detector import write_detector
from tests.trials.kit import Outcome, Trial, Verdict, call, either, refused, taken

TITLE = "folders and lists of pictures"
SETTINGS = {
    "size": 8, "channels": 3, "validation": 0.25, "count": 80, "limit": 0, "seed": 0, "test": 0.25
}  # fmt: skip
Judged = Callable[[], Verdict]


def trials(folder: Path) -> Iterator[Trial]:
    """Yield all trials; each works in a folder of its own below `folder`."""
    groups = (layouts, doubtful, kinds, left_out, twins, listed_twins, names, cells, tables, broken_lists)
    groups += (devices, places, early_ends)  # type: ignore[assignment]
    for group in groups:
        for number, (name, run) in enumerate(group(random.Random(12))):
            yield Trial(
                f"{group.__name__}: {name}", partial(_in_folder, folder / group.__name__ / str(number), run)
            )


def _in_folder(folder: Path, run: Callable[[Path], Verdict]) -> Verdict:
    folder.mkdir(parents=True)
    try:
        return run(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


Cases = Iterator[tuple[str, Callable[[Path], Verdict]]]


def paint(folder: Path, *places: str | bytes, kind: str = "png", start: int = 0) -> dict[str, int]:
    """Write a picture of its own grey for each place; return {place: grey}."""
    greys = {}
    for grey, place in enumerate(map(os.fsdecode, places), start=start):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (grey, grey + 1, 255 - grey)).save(path, kind)
        greys[place] = grey
    return greys


def make_set(folder: Path, role: str, place: Path | str, **keys: object) -> Outcome:
    """Run the stage `download` on the set `mine`, writing folder/out."""
    item = {"role": role, "source": "folder", "folder": str(place), **keys}
    name = "mine" if role == "id" else "digits"
    return call(download.main, *download_words(folder / "out", "mine", item, SETTINGS, name))


def greys(folder: Path) -> dict[str, list[int]]:
    """Return {split: sorted greys of its pictures} of folder/out."""
    tensors, metadata = load_tensors(folder / "out", kind="set")
    return {s: sorted(tensors[f"{s}.images"][:, 0, 0, 0].tolist()) for s in metadata["splits"]}


def holds(folder: Path, **expected: Sequence[int]) -> str | None:
    found = greys(folder)
    right = found == {split: sorted(values) for split, values in expected.items()}
    return None if right else f"holds {found}"


@cache
def detector(folder: Path) -> Path:
    folder.mkdir()
    with redirect_stdout(io.StringIO()):
        return write_detector(folder)


def judge(folder: Path, images: Path | str, *words: str) -> Outcome:
    """Run `score`, writing folder/s.csv."""
    made = detector(folder.parents[1] / "detector")
    return call(score.main, "--detector", made, "--images", images, "--out", folder / "s.csv", *words)


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "s.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- splits in the names of folders ------------------------------------------------------------


def layouts(rng: random.Random) -> Cases:
    pairs = [("train", "test"), ("Train", "Test"), ("TRAIN", "TEST"), ("training", "testing")]
    pairs += [("training_set", "test_set"), ("train", "val"), ("Train", "Validation"), ("train", "valid")]
    pairs += [("train2017", "val2017"), ("trainset", "testset"), ("train_images", "test_images")]
    pairs += [("".join(rng.choice((c.upper(), c)) for c in first), second) for first, second in pairs[:6]]
    patterns = ["{split}/{name}/{n}.png", "{name}/{split}/{n}.png", "data/{split}/{name}/{n}.png"]
    for train, test in pairs:
        for pattern in patterns:
            for role in ("id", "far"):
                yield (
                    f"{pattern} with {train}, {test} as {role}",
                    partial(_layout, train, test, pattern, role),
                )


def _layout(train: str, test: str, pattern: str, role: str, folder: Path) -> Verdict:
    names = [pattern.format(split=s, name=c, n=n) for s in (train, test) for c in "ab" for n in range(4)]
    paint(folder / "mine", *names)

    def check() -> str | None:
        found = greys(folder)
        fitted = sorted(found.get("train", []) + found.get("validation", []))
        right = found["test"] == list(range(8, 16)) and fitted == (list(range(8)) if role == "id" else [])
        return None if right else f"holds {found}"

    return either(make_set(folder, role, folder / "mine"), str(folder), check=check)


def doubtful(rng: random.Random) -> Cases:
    cases = {
        "two training folders": ["train/a/1", "Training/a/2", "test/a/1", "train/b/1", "test/b/1"],
        "three kinds": ["train/a/1", "test/a/1", "extra/a/1"],
        "unknown name": ["train/a/1", "train/b/1", "holdout/a/1", "holdout/b/1"],
        "test beside classes": ["test/a/1", "cats/1", "dogs/1"],
        "loose": ["train/a/1", "test/a/1", "1"],
        "half of the classes": ["cats/train/1", "cats/test/1", "dogs/1"],
        "twice in a class": ["cats/train/1", "cats/Train/2", "cats/test/1"],
    }
    for name, files in cases.items():
        for role in ("id", "near", "tuning", "auxiliary"):
            run = partial(_refused_set, [f"{file}.png" for file in files], role)
            yield f"{name} as {role}", run


def _refused_set(files: list[str], role: str, folder: Path) -> Verdict:
    paint(folder / "mine", *files)
    return refused(make_set(folder, role, folder / "mine"), str(folder / "mine"))


# ---- what a file is ----------------------------------------------------------------------------

FORMATS = ["png", "jpeg", "gif", "avif", "jpeg2000", "webp", "bmp", "tiff", "ppm", "ico", "pcx", "sgi", "dds"]


def kinds(rng: random.Random) -> Cases:
    endings = {"jpeg": (".jfif", ".jpe", ".JPG"), "jpeg2000": (".jp2", ".j2k"), "png": (".apng",)}
    for kind in FORMATS:
        for ending in ("", ".dat", f".{kind}", *endings.get(kind, ())):
            for command in ("set", "list", "score"):
                yield f"{kind} as b{ending} in a {command}", partial(_kind, kind, f"b{ending}", command)


def _kind(kind: str, name: str, command: str, folder: Path) -> Verdict:
    paint(folder / "mine", "a.png")
    paint(folder / "mine", name, kind=kind, start=1)
    if command == "score":
        return taken(judge(folder, folder / "mine"), lambda: _differs(len(rows(folder)), 2))
    (folder / "list.csv").write_text(f"path\nmine/a.png\nmine/{name}\n")
    made = make_set(folder, "far", folder / ("mine" if command == "set" else "list.csv"))
    return taken(made, lambda: _differs(len(greys(folder)["test"]), 2))


def _differs(found: object, expected: object) -> str | None:
    return None if found == expected else f"found {found}, expected {expected}"


def left_out(rng: random.Random) -> Cases:
    contents = {
        "notes.txt": b"notes",
        "Thumbs.db": bytes(range(256)),
        "film.mp4": b"\0\0\0\x20ftypisom" + bytes(99),
        "a.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "more.zip": b"PK\3\4" + bytes(99),
        "nothing": b"",
        ".hidden.png": b"hidden",
        "phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
        "page.html": b"<html></html>",
        "BM.txt": b"BM is a mark of pictures",
        "P5.txt": b"P5 is one too",
        "h.h": b"#define x_width 9\n",
        "random": rng.randbytes(500),
    }
    for name, content in contents.items():
        for command in ("set", "score"):
            yield f"{name} in a {command}", partial(_left_out, name, content, command)


def _left_out(name: str, content: bytes, command: str, folder: Path) -> Verdict:
    paint(folder / "mine", "a.png", "b.png")
    (folder / "mine" / name).write_bytes(content)
    if command == "score":
        made, count = judge(folder, folder / "mine"), lambda: len(rows(folder))
    else:
        made, count = make_set(folder, "far", folder / "mine"), lambda: len(greys(folder)["test"])
    check = partial(_said_left_out, made, count)
    return either(made, name, check=check)


def _said_left_out(made: Outcome, count: Callable[[], int]) -> str | None:
    said = "not taken" in made.output and " 1 " in f" {made.output} "
    return _differs(count(), 2) or (None if said else f"not a word of it: {made.output}")


# ---- one picture under two names ---------------------------------------------------------------


def _other_names(folder: Path) -> dict[str, str]:
    """Make other names of é.png in a folder, which holds b.png as well; return {kind: name}."""
    paint(folder, "é.png", "b.png", "in/c.png")
    os.link(folder / "é.png", folder / "hard.png")
    (folder / "soft.png").symlink_to("é.png")
    spelt = unicodedata.normalize("NFD", "é.png")
    shutil.copy(folder / "é.png", folder / spelt)
    return {
        **{"dot": "./é.png", "up": "in/../é.png", "double": "in//../é.png", "full": f"{folder}/é.png"},
        **{"hard link": "hard.png", "link": "soft.png", "spelling": spelt, "self": "é.png"},
    }


def listed_twins(rng: random.Random) -> Cases:
    for kind in ("dot", "up", "double", "full", "hard link", "link", "spelling", "self"):
        for command in ("far", "id", "score"):
            yield f"{kind} in a list for {command}", partial(_listed_twin, kind, command)


def _listed_twin(kind: str, command: str, folder: Path) -> Verdict:
    name = _other_names(folder / "mine")[kind]
    lines = ["path,label", "é.png,a", "b.png,b", f"{name},a", "in/c.png,b"]
    (folder / "mine/list.csv").write_text("\n".join(lines) + "\n")
    if command == "score":
        return refused(judge(folder, folder / "mine/list.csv"), "row 4", "row 2")
    return refused(make_set(folder, command, folder / "mine/list.csv"), "row 4", "row 2")


def twins(rng: random.Random) -> Cases:
    for kind in ("hard link", "link", "spelling"):
        yield f"{kind} in a folder", partial(_twin, kind)
        for first, second in (("train/a/1.png", "test/a/1.png"), ("train/a/1.png", "train/b/9.png")):
            yield f"{kind} of {first} as {second}", partial(_split_twin, kind, first, second)


def _twin(kind: str, folder: Path) -> Verdict:
    name = _other_names(folder / "all")[kind]
    (folder / "mine").mkdir()
    for kept in ("é.png", "b.png", name):
        shutil.move(folder / "all" / kept, folder / "mine" / kept)
    return taken(make_set(folder, "far", folder / "mine"), lambda: _differs(greys(folder)["test"], [0, 1]))


def _split_twin(kind: str, first: str, second: str, folder: Path) -> Verdict:
    paint(
        folder, *(f"{split}/{name}/{n}.png" for split in ("train", "test") for name in "ab" for n in range(4))
    )
    (folder / second).unlink(missing_ok=True)
    if kind == "hard link":
        os.link(folder / first, folder / second)
    elif kind == "link":
        (folder / second).symlink_to(folder / first)
    else:
        shutil.copy(folder / first, folder / second.replace("1.png", "é.png").replace("9.png", "é.png"))
        return taken(make_set(folder, "id", folder))
    return refused(make_set(folder, "id", folder), first, second)


# ---- names of files ----------------------------------------------------------------------------

ODD = [
    b"\xff\xfe.png",
    b"a\rb.png",
    b"a\r\nb.png",
    b"\x1b[31mred.png",
    b"\x1b]0;title\x07.png",
    b"\x9b2J.png",
]
ODD += [
    b"a\nError: forged.png",
    b"\xe2\x80\xaegnp.exe.png",
    b"%41.png",
    b"100%.png",
    b"a,b;c'\".png",
    b"\t.png",
]
STARTS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(1)",
    "=cmd|' -C calc'!A0",
    "a;=1+1",
    "\uff1d1+1",
    "\t=1",
    "\r=1",
    '"=1',
]


def names(rng: random.Random) -> Cases:
    random_names = [
        bytes(rng.choices([*range(1, 47), *range(48, 256)], k=rng.randint(1, 40))) for _ in range(60)
    ]
    for name in [*ODD, *(b"x" + name + b".png" for name in random_names)]:
        yield f"score {name!r}", partial(_scored_name, name)
        yield f"unreadable {name!r}", partial(_unreadable_name, name)


def _scored_name(name: bytes, folder: Path) -> Verdict:
    paint(folder / "mine", b"in/" + name, "z.png")

    def check() -> str | None:
        text = (folder / "s.csv").read_bytes()
        if any(byte < 32 and byte != 10 or byte == 127 for byte in text) or text.count(b"\n") != 3:
            return f"bytes that give orders, or broken rows: {text!r}"
        found = {os.fsencode(unquote(row["path"], errors="surrogateescape")) for row in rows(folder)}
        return _differs(found, {b"in/" + name, b"z.png"})

    return taken(judge(folder, folder / "mine"), check)


def _unreadable_name(name: bytes, folder: Path) -> Verdict:
    paint(folder / "mine", "z.png")
    (folder / "mine" / os.fsdecode(name)).write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    ending = os.path.splitext(os.fsdecode(name))[1]
    made = make_set(folder, "far", folder / "mine")
    if any(map(_orders, made.output.replace("\n", " "))) or "\nError" in made.output:
        return Verdict("silent", f"orders reach the terminal: {made.output!r}")
    return refused(made, "cannot be read") if ending == ".png" else either(made, "cannot be read")


def _orders(letter: str) -> bool:
    """Whether a terminal or a reader's eye takes orders from a letter."""
    turns = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    is_mark = letter in "\u061c\u200e\u200f" or unicodedata.bidirectional(letter) in turns
    return is_mark or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")


def cells(rng: random.Random) -> Cases:
    for start in STARTS:
        yield f"file {start!r}", partial(_cell, start, False)
        yield f"column of a list {start!r}", partial(_cell, start, True)


def _cell(start: str, listed: bool, folder: Path) -> Verdict:
    paint(folder / "mine", f"{start}.png", "z.png")
    place = folder / "mine"
    if listed:
        place = folder / "list.csv"
        with open(place, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["path", "note"], ["mine/z.png", start]])

    def check() -> str | None:
        cells = [text for row in rows(folder) for text in row.values()]
        runs = [text for text in cells if text[:1] in "=+-@\uff1d\t\r" and not _is_number(text)]
        runs += [text for text in cells if ";=" in text]
        kept = start in {unquote(row["note"]) for row in rows(folder)} if listed else True
        return f"cells that a spreadsheet runs: {runs}" if any(runs) else None if kept else "the note is lost"

    return taken(judge(folder, place), check)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# ---- lists -------------------------------------------------------------------------------------

TABLE = "path,label,split\na b/0.png,cat,train\na b/1.png,dog,test\na b/2.png,dog,train\na b/3.png,cat,test\n"


def tables(rng: random.Random) -> Cases:
    body = TABLE.split("\n", 1)[1]
    right = {
        "plain": TABLE,
        "mark of order": "\ufeff" + TABLE,
        "line ends of Windows": TABLE.replace("\n", "\r\n"),
        "semicolons": TABLE.replace(",", ";"),
        "tabs": TABLE.replace(",", "\t"),
        "capitals": "Path,Label,Split\n" + body,
        "own column": "path,label,split,note\n" + body.replace("\n", ",x\n"),
        "names of splits": TABLE.replace("train\n", "Training\n").replace("test\n", "TEST\n"),
        "backslashes": TABLE.replace("a b/", "a b\\"),
        "spaces round labels": TABLE.replace(",cat", ", cat "),
        "empty lines": TABLE.replace("\n", "\n\n"),
    }
    for name, text in right.items():
        for ending in ("csv", "txt"):
            yield f"{name}, .{ending}", partial(_table, text, f"list.{ending}")
    lines = {"lines": "{} {}\n", "lines with tabs": "{}\t{}\n", "paths alone": "{}\n"}
    for name, line in lines.items():
        yield name, partial(_lines, line)
    wrong = {
        "label misspelt": TABLE.replace("label", "lable"),
        "split misspelt": TABLE.replace("split", "splits"),
        "split by another name": TABLE.replace("split", "subset"),
        "path by another name": TABLE.replace("path", "filename"),
        "no header": body,
        "column twice": TABLE.replace("label", "path"),
        "unknown split": TABLE.replace("dog,test", "dog,tset"),
        "UTF-16": TABLE.encode("utf-16"),
        "NUL": TABLE.replace("a b/2", "a b/\0"),
    }
    for name, content in wrong.items():
        yield name, partial(_wrong_table, content)


def _table(text: str, name: str, folder: Path) -> Verdict:
    paint(folder, *(f"a b/{n}.png" for n in range(4)))
    (folder / name).write_text(text, encoding="utf-8", newline="")
    made = make_set(folder, "far", folder / name)
    return taken(made, lambda: holds(folder, test=[1, 3]) or _differs(_classes(folder), ["cat", "dog"]))


def _classes(folder: Path) -> list[str]:
    return load_tensors(folder / "out", kind="set")[1]["classes"]


def _lines(line: str, folder: Path) -> Verdict:
    paint(folder, *(f"a b/{n}.png" for n in range(4)))
    (folder / "list.txt").write_text("".join(line.format(f"a b/{n}.png", "dc"[n % 2]) for n in range(4)))
    expected = ["c", "d"] if line.count("{}") > 1 else []
    made = make_set(folder, "far", folder / "list.txt")
    return taken(made, lambda: holds(folder, test=range(4)) or _differs(_classes(folder), expected))


def _wrong_table(content: str | bytes, folder: Path) -> Verdict:
    paint(folder, *(f"a b/{n}.png" for n in range(4)))
    (folder / "list.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return refused(make_set(folder, "far", folder / "list.csv"), "list.csv")


def broken_lists(rng: random.Random) -> Cases:
    for number in range(80):
        content = bytearray(TABLE.encode())
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(content))
            content[place : place + rng.choice((0, 0, 1, 5))] = rng.randbytes(rng.choice((0, 1, 1, 3)))
        yield f"damaged {number}", partial(_damaged, bytes(content))


def _damaged(content: bytes, folder: Path) -> Verdict:
    """It may be refused by name, or hold pictures of the folder, each once and with a label of the list."""
    paint(folder, *(f"a b/{n}.png" for n in range(4)))
    (folder / "list.csv").write_bytes(content)

    def check() -> str | None:
        found = greys(folder)["test"]
        return None if len(set(found)) == len(found) and set(found) <= set(range(4)) else f"holds {found}"

    return either(make_set(folder, "far", folder / "list.csv"), str(folder), check=check)


# ---- devices, places, early ends ---------------------------------------------------------------


def devices(rng: random.Random) -> Cases:
    for device in ("/dev/zero", "/dev/random", "/dev/tty", "/dev/stdin", "pipe", "socket", "folder"):
        for command in (
            "list",
            "skipping list",
            "link in a folder",
            "link in a scored folder",
            "place",
            "scored",
        ):
            if (device, command) not in (
                ("folder", "link in a folder"),
                ("folder", "link in a scored folder"),
            ):
                yield f"{device}, {command}", partial(_device, device, command)


def _device(device: str, command: str, folder: Path) -> Verdict:
    paint(folder / "mine", "a.png")
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener, chdir(folder):  # the path of a socket is short
        listener.bind("socket")
    path = folder / device
    if "list" in command:
        (folder / "list.csv").write_text(f"path\nmine/a.png\n{path}\n")
        return refused(
            make_set(folder, "far", folder / "list.csv", skip_unreadable="skip" in command), str(path)
        )
    if command == "place":
        return refused(make_set(folder, "far", path), str(path))
    if command == "scored":
        return refused(judge(folder, path), str(path))
    (folder / "mine/b.png").symlink_to(path)
    words = "mine/b.png"
    made = judge(folder, folder / "mine") if "scored" in command else make_set(folder, "far", folder / "mine")
    return refused(made, words)


def places(rng: random.Random) -> Cases:
    for name in ("a.zip", "a.tar", "a.tar.gz", "a.png", "notes.doc", "notes.txt", "link", "pictres", "empty"):
        for command in ("set", "score"):
            if (name, command) != ("a.png", "score"):
                yield f"{name} for a {command}", partial(_place, name, command)
    yield "mistyped, with a hint", partial(_hint, "pictres")
    yield "mistyped above, with a hint", partial(_hint, "picures/of/mine")
    yield "home", _home
    for name in ("x" * 300, "x/" * 3000, "nul\0", "line\nend"):
        yield f"impossible {name[:9]!r}", partial(_impossible, name)
    yield "relative and not there", _relative
    yield "a folder called like a list", _folder_like_a_list
    for count in (2, 6):
        yield f"{count} folders that link to each other", partial(_tangle, count)
    yield "class 007", _quoted


def _place(name: str, command: str, folder: Path) -> Verdict:
    paint(folder, "pictures/1.png", "a.png")
    (folder / "a.zip").write_bytes(b"PK\3\4" + bytes(30))
    (folder / "a.tar").write_bytes(bytes(257) + b"ustar" + bytes(300))
    (folder / "a.tar.gz").write_bytes(b"\x1f\x8b" + bytes(30))
    for notes in ("notes.doc", "notes.txt"):
        (folder / notes).write_text("notes on pictures\n")
    (folder / "link").symlink_to("nowhere")
    (folder / "empty").mkdir()
    made = judge(folder, folder / name) if command == "score" else make_set(folder, "far", folder / name)
    if name not in ("link", "pictres") and (
        "does not exist" in made.output or "no such" in made.output.split(":")[0]
    ):
        known = any(word in made.output for word in ("archive", "neither", "single picture"))
        return (
            refused(made, str(folder / name)) if known else Verdict("unnamed", f"it is there: {made.output}")
        )
    return refused(made, str(folder / name))


def _hint(name: str, folder: Path) -> Verdict:
    paint(folder, "pictures/1.png")
    return refused(make_set(folder, "far", folder / name), str(folder / "pictures"))


def _impossible(name: str, folder: Path) -> Verdict:
    return refused(make_set(folder, "far", folder / name), str(folder))


def _home(folder: Path) -> Verdict:
    paint(folder, "pictures/1.png")
    item = {"role": "far", "source": "folder", "folder": "~/pictures"}
    words = download_words(folder / "out", "mine", item, SETTINGS)
    return taken(call(download.main, *words, HOME=str(folder)), lambda: holds(folder, test=[0]))


def _relative(folder: Path) -> Verdict:
    words = download_words(
        folder / "out", "mine", {"role": "far", "source": "folder", "folder": "pictures"}, SETTINGS
    )
    return refused(call(download.main, *words, cwd=folder), str(folder / "pictures"))


def _folder_like_a_list(folder: Path) -> Verdict:
    paint(folder, "mine.csv/1.png")
    return taken(make_set(folder, "far", folder / "mine.csv"), lambda: holds(folder, test=[0]))


def _tangle(count: int, folder: Path) -> Verdict:
    paint(folder / "mine", *(f"{n}/1.png" for n in range(count)))
    for first in range(count):
        for second in range(count):
            if first != second:
                (folder / f"mine/{first}/to{second}").symlink_to(f"../{second}")
    return taken(make_set(folder, "far", folder / "mine"), lambda: holds(folder, test=range(count)))


def _quoted(folder: Path) -> Verdict:
    paint(folder / "mine", *(f"{name}/{n}.png" for name in ("007", "008", "009") for n in range(4)))
    item = {"role": "id", "source": "folder", "folder": str(folder / "mine")}
    words = download_words(folder / "out", "mine", item, SETTINGS | {"heldout": ["7"]}, "mine")
    return refused(call(download.main, *words), "quotes")


def early_ends(rng: random.Random) -> Cases:
    for size in (1, 3, 4):
        for bad in sorted(rng.sample(range(size, 12), 4)):
            yield f"batches of {size}, picture {bad} cannot be read", partial(_early_end, size, bad)


def _early_end(size: int, bad: int, folder: Path) -> Verdict:
    paint(folder / "mine", *(f"{n:02}.png" for n in range(12)))
    (folder / f"mine/{bad:02}.png").write_bytes(b"no picture")
    made = judge(folder, folder / "mine", "--batch_size", str(size))
    kept = [path for path in folder.glob("s.csv*") if path.read_text().count("\n") == 1 + bad // size * size]
    verdict = refused(made, f"{bad:02}.png")
    return (
        verdict if verdict.kind != "right" or kept else Verdict("silent", "the rows scored so far are lost")
    )
