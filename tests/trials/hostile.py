"""Files that are damaged, or lie to whoever reads them: safetensors, archives, Matlab, checkpoints."""

import bz2
import datetime
import gzip
import io
import json
import lzma
import os
import pickle
import random
import signal
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import click
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as library_load
from safetensors.torch import save as library_save
from scipy.io import savemat

from sslood.cli.command import Command
from sslood.core.files import load_json, load_tensors, save_tensors
from sslood.data.sets.fetching.published import Published
from sslood.data.sets.fetching.transfer import download
from sslood.data.sets.fetching.unpack import unpack
from sslood.data.sources.svhn import svhn
from sslood.nets.adopting.layouts import Layout, weights_of
from sslood.nets.adopting.weights import read_checkpoint
from tests.trials.kit import Trial, Verdict, call, either, refused, taken

TITLE = "files that are damaged or lie"
NOISE = np.random.default_rng(0).bytes(20_000)


# ---- safetensors ---------------------------------------------------------------------------------
def entry(dtype="F32", shape=(2,), begin=0, end=8) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def about(text: str) -> dict:
    return {"x": entry(), "__metadata__": {"sslood": text}}


LIES = {  # headers of a file with 8 bytes of data
    "before the data": {"x": entry(begin=-8, end=0)},
    "a gap": {"x": entry(begin=4, end=12)},
    "overlapping": {"x": entry(), "y": entry(begin=4, end=12)},
    "twice the same": {"x": entry(), "y": entry()},
    "backwards": {"x": entry(begin=8, end=0)},
    "past the end": {"x": entry(shape=(4,), end=16)},
    "not all of it": {"x": entry(shape=(1,), end=4)},
    "shape too small": {"x": entry(shape=(1,))},
    "shape too large": {"x": entry(shape=(3,))},
    "negative shape": {"x": entry(shape=(-1, -2))},
    "fractional shape": {"x": entry(shape=(2.0,))},
    "boolean shape": {"x": entry(shape=(True, 2))},
    "shape beyond 64 bits": {"x": entry(shape=(2**62, 4))},
    "empty shape beyond 64 bits": {"x": entry(shape=(0, 2**62, 8), end=0), "y": entry()},
    "70 dimensions": {"x": entry(shape=(1,) * 69 + (2,))},
    "70 empty dimensions": {"x": entry(shape=(0,) * 70, end=0), "y": entry()},
    "another dtype": {"x": entry(dtype="F64")},
    "no such dtype": {"x": entry(dtype="F31")},
    "a dtype of others": {"x": entry(dtype="BF16", shape=(4,))},
    "a dtype that is none": {"x": entry(dtype=["F32"])},
    "three offsets": {"x": {**entry(), "data_offsets": [0, 4, 8]}},
    "words as offsets": {"x": entry(begin="0", end="8")},
    "no shape": {"x": {"dtype": "F32", "data_offsets": [0, 8]}},
    "metadata of numbers": {"x": entry(), "__metadata__": {"sslood": 3}},
    "metadata that is a list": about("[]"),
    "metadata that is no JSON": about("{"),
    "metadata too deep": about("[" * 100_000),
    "a format in words": about('{"format": "2"}'),
    "a name for the terminal": {"\x1b[31m\n": entry(shape=(3,))},
}


def safetensors(header: dict) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


def long_header(length: int) -> bytes:
    """Return a file whose header claims a length, and has it if a disk can hold that."""
    return struct.pack("<Q", length) + b'{"' + b" " * (length if length < 10**8 else 100)


def wrong_bytes(good: bytes, seed: int, upto: int | None = None, first: int = 0) -> bytes:
    """Return a copy with one to three wrong bytes between `first` and `upto`."""
    bad, rng = bytearray(good), random.Random(seed)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(first, min(len(bad), upto or len(bad)))
        bad[place] = rng.choice([rng.randrange(256), bad[place] ^ 1 << rng.randrange(8), *b"0919{}[]"])
    return bytes(bad)


# ---- archives ------------------------------------------------------------------------------------
def tar(*members: tuple[str, dict, bytes], end=bytes(10_240)) -> bytes:
    """Return a tar file; each member has a name, attributes of its header, and content."""
    out = b""
    for name, attributes, content in members:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        for key, value in attributes.items():
            setattr(info, key, value)
        out += info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)
    return out + end


def raw(info: tarfile.TarInfo, place: slice, value: bytes) -> bytes:
    """Return a header with other bytes at `place`, and the checksum that fits them."""
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[place] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def record(key: str, value: str) -> bytes:
    """Return one record of a pax header: its own length, key and value."""
    body = f" {key}={value}\n".encode()
    length = len(body)
    while length != len(str(length)) + len(body):
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def common(number: int) -> bytes:
    """Return a header for all members, and a member after it."""
    content = record(f"comment{number}", "x")
    return tar((f"{number}", {"type": tarfile.XGLTYPE}, content), (f"{number}.png", {}, b"x"), end=b"")


def pax(content: bytes = b"x", **headers: str) -> bytes:
    names = {name.replace("_", "."): value for name, value in headers.items()}
    return tar(("a", {"pax_headers": names}, content))


SPARSE = {"GNU_sparse_major": "1", "GNU_sparse_minor": "0", "GNU_sparse_realsize": "9"}
TARS: dict[str, Callable[[], bytes]] = {
    "negative size": lambda: raw(tarfile.TarInfo("a"), slice(124, 136), b"\xff" * 12) + bytes(10_240),
    "negative size of pax": lambda: pax(size="-5"),
    "sparse of pax": lambda: pax(b"1\n0\n-3000000000\n" + bytes(600), **SPARSE),
    "sparse of pax, endless": lambda: pax(b"900000000\n" + b"1\n" * 4_000_000, **SPARSE),
    "sparse of old pax": lambda: pax(GNU_sparse_size="3", GNU_sparse_map="0,-3000000000"),
    "sparse of 3 GB": lambda: pax(GNU_sparse_size="3000000000", GNU_sparse_map="0,0"),
    "500,000 parts": lambda: pax(path="a/" * 499_999 + "b"),
    "30,000 parts": lambda: pax(path="a/" * 29_999 + "b"),
    "33 parts": lambda: pax(path="a/" * 32 + "b"),
    "long parts": lambda: pax(path=("a" * 250 + "/") * 5 + "b"),
    "zero byte": lambda: pax(path="a\0b"),
    "half a character": lambda: tar(("a.png", {}, b"x")).replace(b"a.png", b"\xed\xa0\x80g"),
    "no name": lambda: raw(tarfile.TarInfo("a"), slice(0, 100), bytes(100)) + bytes(10_240),
    "folder as file": lambda: tar(("a", {"type": tarfile.DIRTYPE}, b""), ("a", {}, b"x")),
    "dot": lambda: tar((".", {}, b"x")),
    "name of 60 MB": lambda: tar(("a", {"type": tarfile.GNUTYPE_LONGNAME, "size": 60_000_000}, b"")),
    "headers in headers": lambda: tar(*[("x", {"type": tarfile.XHDTYPE}, record("comment", "x"))] * 3000),
    "headers for all": lambda: b"".join(map(common, range(200))) + bytes(10_240),
    "empty": lambda: b"",
    "only zeros after it, 40 MB": lambda: tar(("a.png", {}, b"x"), end=bytes(40_000_000)),
    "words": lambda: b"<html>Not found</html>" * 100,
}
PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "plain": bytes}
MEMBERS = {f"{number}.png": NOISE[number * 500 :] for number in range(8)}
ZIPS = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED, "lzma": zipfile.ZIP_LZMA}


def zipped(kind: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as file:
        for name, content in MEMBERS.items():
            file.writestr(name, content)
    return out.getvalue()


# ---- Matlab files --------------------------------------------------------------------------------
def mat(*, compress: bool = False, **arrays) -> bytes:
    out = io.BytesIO()
    savemat(out, arrays or DIGITS, do_compression=compress)
    return out.getvalue()


def with_byte(content: bytes, place: int, value: int) -> bytes:
    return content[:place] + bytes([value]) + content[place + 1 :]


def mat_bomb() -> bytes:
    """Three gigabytes of zeros, of which 64 MB are there, packed."""
    size = 3 << 30
    flags = np.array([6, 8, 9, 0, 5, 8, 1, size, 1, 8], "<u4").tobytes() + b"X".ljust(8, b"\0")
    head = np.array([14, len(flags) + 8 + size], "<u8").astype("<u4").tobytes()
    head += flags + np.array([2, size], "<u8").astype("<u4").tobytes()
    packed = zlib.compress(head + bytes(1 << 26))
    return mat()[:128] + np.array([15, len(packed)], "<u4").tobytes() + packed


X = np.frombuffer(NOISE[: 32 * 32 * 3 * 5], np.uint8).reshape(32, 32, 3, 5)
DIGITS = {"X": X, "y": np.arange(1.0, 6)[:, None]}
MATS: dict[str, tuple[Callable[[], bytes], str]] = {  # content, and words of the refusal
    "crashes the library": (lambda: with_byte(mat(), 128 + 57, 1), "reading it ends with signal 11"),
    "three gigabytes": (mat_bomb, ""),
    "cut short": (lambda: mat()[:300], ""),
    "damaged": (lambda: mat(compress=True)[:200] + bytes(50), ""),
    "another array": (lambda: mat(z=X), "KeyError: 'X'"),
    "objects": (lambda: mat(X=np.array([[1, "x"]], object), y=X), "X does not hold whole numbers"),
    "words": (lambda: mat(X=np.array(["abc"]), y=X), "X does not hold whole numbers"),
    "not a number": (lambda: mat(X=X, y=np.array([np.nan])), "y does not hold whole numbers"),
    "too large": (lambda: mat(X=X, y=np.array([1e300])), "y does not hold whole numbers"),
    "HDF5": (lambda: b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\x02IM" + bytes(400), "NotImplementedError"),
    "a page": (lambda: b"<html>\n\x1b[31mNot found</html>" * 9, ""),
    "empty": (lambda: b"", ""),
}


# ---- checkpoints ---------------------------------------------------------------------------------
class Unknown:
    """Not a thing that may lie in a checkpoint."""


def compressed() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.eye(2).to_sparse_csr()


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


ONES = torch.ones(2)
ODD: dict[str, tuple[Callable[[], torch.Tensor], str]] = {  # tensor, and what is said of it
    "sparse": (lambda: torch.eye(2).to_sparse(), "a sparse or nested tensor"),
    "compressed": (compressed, "a sparse or nested tensor"),
    "meta": (lambda: torch.ones(2, device="meta"), "a meta tensor, which has no values"),
    "quantised": (quantised, "of dtype torch.qint8"),
    "complex": (lambda: torch.ones(2, dtype=torch.complex64), "of dtype torch.complex64"),
    "float8": (lambda: ONES.to(torch.float8_e4m3fn), "of dtype torch.float8_e4m3fn"),
}
KEYS = (0, 2.5, None, b"a", (1, "a"), True)
BESIDE = {
    "numbers of NumPy": [np.float64(0.5), np.float32(1), np.int64(3), np.bool_(True)],
    "arrays of NumPy": [np.arange(5.0), np.array(["a", None], object), np.eye(2)[::2], np.dtype("f4")],
    "paths": [Path("b"), PurePosixPath("a")],
    "defaultdicts": [defaultdict(int, {3: 4}), defaultdict(list, a=[1])],
    "an OrderedDict": OrderedDict(a=1),
}
NOT_BESIDE = {
    "an object": (Unknown(), f"{Unknown.__module__}.Unknown"),
    "a function": (os.system, "posix.system"),
    "eval": (eval, "eval"),
    "a factory": (defaultdict(os.getcwd), "posix.getcwd"),
    "a date": (datetime.date(2020, 1, 1), "datetime.date"),
    "a generator": (np.random.default_rng(0), "numpy.random._pickle.__generator_ctor"),
}


def checkpoint(content: object, zip_form: bool = True) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, out, _use_new_zipfile_serialization=zip_form)
    return out.getvalue()


LISTS = b"\x80\x02" + b"]" * 8_000_000 + b"."  # a pickle


def repacked(content: bytes, pickled: bytes = b"") -> bytes:
    """Return a checkpoint with another pickle, or one whose records are packed, which torch never does."""
    out = io.BytesIO()
    kind = zipfile.ZIP_STORED if pickled else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", kind) as new:
        for info in old.infolist():
            other = pickled if info.filename.endswith("data.pkl") else b""
            new.writestr(info.filename, other or old.read(info))
    return out.getvalue()


# ---- what is tried -------------------------------------------------------------------------------
@click.command(cls=Command)
@click.argument("reader")
@click.argument("path", type=click.Path(path_type=Path))
def command(reader: str, path: Path) -> None:
    """Read a file as the stages do."""
    if reader == "tensors":
        tensors, _ = load_tensors(path)
        click.echo(sum(int(array.view(np.uint8).sum()) if array.ndim else 0 for array in tensors.values()))
    elif reader == "json":
        load_json(path)
    elif reader == "archive":
        unpack(path, path.with_name("out"))
    elif reader == "matlab":
        found = svhn({"m": path}, "test", {"test": "m"})
        if not np.array_equal(np.asarray(found.images), X.transpose(3, 0, 1, 2)):
            click.echo("other images")
    else:
        weights_of(read_checkpoint(path), Layout("", state=reader.partition(":")[2]), path.name)


def read(reader: str, path: Path, content: Callable[[], bytes], judge: Callable[..., Verdict]) -> Verdict:
    """Write the file, read it in a process of its own, and judge; nothing but the file may be left."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content())
    verdict = judge(call(command, reader, path))
    left = sorted(other.name for other in path.parent.iterdir() if other != path)
    unpacked = path.parent / "out"
    if unpacked.is_dir():
        found = {inner.name: inner.read_bytes() for inner in unpacked.iterdir() if inner.is_file()}
        left = [] if found == MEMBERS else ["wrong pictures"]
    for inner in sorted(path.parent.rglob("*"), reverse=True):
        inner.rmdir() if inner.is_dir() and not inner.is_symlink() else inner.unlink()
    return Verdict("silent", f"left {left}") if verdict.kind == "right" and left else verdict


def named(outcome, path: Path) -> Verdict:
    return refused(outcome, path.name)


def as_the_library(outcome, content: bytes, path: Path) -> Verdict:
    """Judge a file with wrong bytes: taken or refused, as the format's library does."""
    try:
        library_load(content)
    except (SafetensorError, KeyError, ValueError):
        return refused(outcome, path.name)
    return either(outcome, path.name)


def as_it_was(outcome, path: Path) -> Verdict:
    return either(outcome, path.name, check=lambda: outcome.output.strip() or None)


def killed(folder: Path) -> Verdict:
    """Kill an unpacking in its middle, then unpack: nothing of the first may be left."""
    path = folder / "k" / "set.tar"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(tar(*((name, {}, content) for name, content in MEMBERS.items())))

    def die() -> None:
        end = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        tarfile.copyfileobj = end  # type: ignore[attr-defined]
        unpack(path, path.with_name("out"))

    call(die)
    content = path.read_bytes()
    return read("archive", path, lambda: content, lambda outcome: _alone(taken(outcome), path.parent))


def _alone(verdict: Verdict, folder: Path) -> Verdict:
    left = {inner.name for inner in folder.iterdir()} - {"set.tar", "out"}
    return Verdict("silent", f"left {left}") if left else verdict


def linked(folder: Path, make: Callable[[Path, Path], None]) -> Verdict:
    """Fetch to a place where the half file leads to another one, from a server that does not answer."""
    place, other = folder / "l" / "a.bin", folder / "precious"
    place.parent.mkdir(exist_ok=True)
    other.write_bytes(b"precious")
    part = place.with_name("a.bin.part")
    make(part, other)

    def fetch() -> None:
        import http.server
        import threading

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(NOISE)

            def log_message(self, *_: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            download(f"http://127.0.0.1:{server.server_address[1]}/a.bin", place, Published(name="a.bin"))
            server.shutdown()

    outcome = call(fetch, NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
    changed = "another file was changed" if other.read_bytes() != b"precious" else None
    verdict = taken(outcome, lambda: changed)
    for path in (*place.parent.iterdir(), other):
        path.unlink()
    return verdict


def trials(folder: Path) -> Iterator[Trial]:
    """Yield some 600 trials; `folder` is for their files."""

    def trial(name: str, reader: str, suffix: str, content: Callable[[], bytes], judge=named) -> Trial:
        path = folder / "t" / f"bad{suffix}"
        return Trial(f"{name}", lambda: read(reader, path, content, partial(judge, path=path)))

    for name, header in LIES.items():
        yield trial(f"safetensors, {name}", "tensors", ".safetensors", partial(safetensors, header))
    for length in (0, 1, 99_000_000, 2**63, 2**64 - 1):
        make = partial(long_header, length)
        yield trial(f"safetensors, header of {length}", "tensors", ".safetensors", make)
    wide = lambda: safetensors(about("[" + "[]," * 30_000_000 + "[]]"))  # noqa: E731
    yield trial("safetensors, metadata of 90 MB", "tensors", ".safetensors", wide)
    arrays = {"x": np.eye(3), "y": np.arange(9, dtype=np.uint8)}
    save_tensors(folder / "good", arrays, kind="set", metadata={})
    good = (folder / "good").read_bytes()
    upto = 8 + struct.unpack("<Q", good[:8])[0]
    for seed in range(150):
        bad = wrong_bytes(good, seed, upto)
        judge = partial(as_the_library, content=bad)
        yield trial(f"safetensors, wrong bytes {seed}", "tensors", ".safetensors", lambda c=bad: c, judge)
    texts: dict[str, Callable[[], bytes]] = {
        "deep": lambda: b"[" * 100_000,
        "wide": lambda: b"[" + b"[]," * 30_000_000 + b"[]]",
        "broken": lambda: b"{",
    }
    for name, make in texts.items():
        yield trial(f"JSON, {name}", "json", ".json", make)
    yield from _archives(folder, trial)
    for name, (make, _) in MATS.items():
        yield trial(f"Matlab, {name}", "matlab", ".mat", make)
    for seed in range(60):  # only the packed form has a checksum
        make = partial(wrong_bytes, mat(compress=seed % 2 > 0), seed, 128 + 120, 128)
        judge = as_it_was if seed % 2 else either_named
        yield trial(f"Matlab, wrong bytes {seed}", "matlab", ".mat", make, judge)
    yield from _checkpoints(trial)


def _archives(folder: Path, trial: Callable[..., Trial]) -> Iterator[Trial]:
    for name, make in TARS.items():
        yield trial(f"tar, {name}", "archive", ".tar.gz", lambda m=make: gzip.compress(m()))
    good = tar(*((name, {}, content) for name, content in MEMBERS.items()))
    for kind, pack in PACK.items():
        packed, rng = pack(good), random.Random(0)
        for number in range(30 if kind != "plain" else 0):
            at = rng.randrange(12, len(packed))
            bad = with_byte(packed, at, packed[at] ^ 1 << rng.randrange(8))
            name = f"{kind}, flipped bit {number}"
            yield trial(name, "archive", f".tar.{kind}", lambda c=bad: c, either_named)
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            length = int(share * len(packed)) // 512 * 512
            yield trial(f"{kind}, cut at {share}", "archive", f".tar.{kind}", lambda c=packed[:length]: c)
    for kind, method in ZIPS.items():
        for seed in range(30):
            make = partial(wrong_bytes, zipped(method), seed)
            yield trial(f"zip, {kind}, wrong bytes {seed}", "archive", ".zip", make, either_named)
    yield Trial("a killed unpacking", lambda: killed(folder))
    links = {
        "symlink": Path.symlink_to,
        "hard link": Path.hardlink_to,
        "pipe": lambda part, _: os.mkfifo(part),
    }
    for name, make in links.items():
        yield Trial(f"a half file that is a {name}", partial(linked, folder, make))


def either_named(outcome, path: Path) -> Verdict:
    return either(outcome, path.name)


def _checkpoints(trial: Callable[..., Trial]) -> Iterator[Trial]:
    for name, (make, _) in ODD.items():
        content = lambda m=make: checkpoint({"fc.weight": m()})  # noqa: E731
        yield trial(f"checkpoint, {name}", "weights", ".pth", content)
    for key in KEYS:
        yield trial(f"checkpoint, key {key!r}", "weights", ".pth", lambda k=key: checkpoint({k: ONES}))
    for name, beside in BESIDE.items():
        content = lambda b=beside: checkpoint({"model": defaultdict(list, a=ONES), "more": b})  # noqa: E731
        yield trial(f"checkpoint with {name}", "weights:model", ".pth", content, lambda out, path: taken(out))
    for name, (beside, _) in NOT_BESIDE.items():
        content = lambda b=beside: checkpoint({"model": {"a": ONES}, "more": b})  # noqa: E731
        yield trial(f"checkpoint with {name}", "weights:model", ".pth", content)
    bomb = lambda: repacked(checkpoint({"a": torch.zeros(50_000_000)}))  # noqa: E731
    yield trial("checkpoint, a bomb of 200 MB", "weights", ".pth", bomb)
    yield trial("checkpoint of 8 million lists", "weights", ".pth", lambda: repacked(checkpoint({}), LISTS))
    old = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
    yield trial("legacy checkpoint of 8 million lists", "weights", ".pth", lambda: old + LISTS)
    forms = {"zip": checkpoint({"a": ONES}), "legacy": checkpoint({"a": ONES}, False)}
    forms["safetensors"] = library_save({"a": ONES})
    for form, good in forms.items():
        suffix = ".safetensors" if form == "safetensors" else ".pth"
        for seed in range(30):
            make = partial(wrong_bytes, good, seed, None if form == "zip" else 600)
            yield trial(f"{form} checkpoint, wrong bytes {seed}", "weights", suffix, make, either_named)
