"""Archives that are damaged, or lie to the library that reads them: one sentence, and nothing left."""

import bz2
import gzip
import io
import lzma
import os
import signal
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest

from sslood.core.errors import InputError
from sslood.data.sets.fetching.unpack import unpack

CONTENT = np.random.default_rng(0).bytes(20_000)
PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "plain": bytes}


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


SPARSE = {
    "GNU.sparse.major": "1",
    "GNU.sparse.minor": "0",
    "GNU.sparse.name": "a.png",
    "GNU.sparse.realsize": "9",
}
OLD_SPARSE = {"GNU.sparse.size": "3", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,-3000000000"}
TAR = {
    "negative size": raw(tarfile.TarInfo("a.png"), slice(124, 136), b"\xff" * 12) + bytes(10_240),
    "negative size of pax": tar(("a.png", {"pax_headers": {"size": "-5"}}, b"x")),
    "sparse of pax": tar(("a.png", {"pax_headers": SPARSE}, b"1\n0\n-3000000000\n" + bytes(600))),
    "sparse of pax, endless": tar(("a.png", {"pax_headers": SPARSE}, b"900000000\n" + b"1\n" * 4_000_000)),
    "sparse of old pax": tar(("a.png", {"pax_headers": OLD_SPARSE}, b"abc")),
    "500,000 parts": tar(("a", {"pax_headers": {"path": "a/" * 499_999 + "b"}}, b"x")),
    "30,000 parts": tar(("a", {"pax_headers": {"path": "a/" * 29_999 + "b"}}, b"x")),
    "33 parts": tar(("a", {"pax_headers": {"path": "a/" * 32 + "b"}}, b"x")),
    "long parts": tar(("a", {"pax_headers": {"path": ("a" * 250 + "/") * 5 + "b"}}, b"x")),
    "zero byte": tar(("a", {"pax_headers": {"path": "a\0b"}}, b"x")),
    "half a character": tar(("a.png", {}, b"x")).replace(b"a.png", b"\xed\xa0\x80g"),
    "no name": raw(tarfile.TarInfo("a"), slice(0, 100), bytes(100)) + bytes(10_240),
    "folder as file": tar(("a", {"type": tarfile.DIRTYPE}, b""), ("a", {}, b"x")),
    "dot": tar((".", {}, b"x")),
    "name of 60 MB": tar(("a", {"type": tarfile.GNUTYPE_LONGNAME, "size": 60_000_000}, b"")),
    "headers in headers": tar(*[("x", {"type": tarfile.XHDTYPE}, record("comment", "x"))] * 3000),
    "headers for all": b"".join(map(common, range(200))) + bytes(10_240),
    "empty": b"",
    "only zeros after it, 40 MB": tar(("a.png", {}, b"x"), end=bytes(40_000_000)),
    "words": b"<html>Not found</html>" * 100,
}


def refused(tmp_path, name: str, content: bytes) -> str:
    """Unpack it; return the sentence in which it is refused."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as failure:
        unpack(path, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    said = str(failure.value)
    assert said.startswith(f"{path}: ") and said.isprintable() and len(said) < 500
    return said


@pytest.mark.parametrize("kind", TAR)
def test_a_tar_that_lies(tmp_path, kind):
    content = gzip.compress(TAR[kind])
    tracemalloc.start()
    refused(tmp_path, "set.tar.gz", content)
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("packed", PACK)
def test_a_changed_bit_is_noticed(tmp_path, packed):
    """gzip, bzip2 and xz keep a checksum of their content, a tar of its headers."""
    members = [(f"{number}.png", {}, CONTENT[number * 500 :]) for number in range(8)]
    good = tar(*members)
    # the first bytes of a packed file hold a date and the like
    places = range(12, len(content := PACK[packed](good)))
    if packed == "plain":
        starts = [good.index(name.encode()) for name, _, _ in members]
        places = [at for start in starts for at in range(start, start + 500)]
    silent, rng = 0, np.random.default_rng(1)
    for number in range(40):
        bad = bytearray(content)
        bad[rng.choice(places)] ^= 1 << rng.integers(8)
        (tmp_path / "set.tar").write_bytes(bad)
        try:
            unpack(tmp_path / "set.tar", tmp_path / f"out{number}")
        except InputError as error:
            assert str(error).startswith(f"{tmp_path}/set.tar: ")
        else:
            found = {path.name: path.read_bytes() for path in (tmp_path / f"out{number}").iterdir()}
            silent += found != {name: content for name, _, content in members}
    assert not silent


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_a_tar_that_is_cut_short(tmp_path, packed, share):
    """Also where a member ends, and in the middle of a header: the end has a mark of its own."""
    good = tar(("a.png", {}, CONTENT[:512]), ("b.png", {}, CONTENT[:512]), end=bytes(1024))
    content = PACK[packed](good)
    refused(tmp_path, "set.tar", content[: int(share * len(content))])
    if packed == "plain":
        for length in (512, 1024, 1024 + 100, 1024 + 512, 2048):
            refused(tmp_path, "set.tar", good[:length])


KINDS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@pytest.mark.parametrize("kind", KINDS)
def test_a_zip_with_a_wrong_byte(tmp_path, kind):
    buffer, rng = io.BytesIO(), np.random.default_rng(kind)
    with zipfile.ZipFile(buffer, "w", kind) as file:
        for name in ("a/", "a/b.png", "c.png"):
            file.writestr(name, CONTENT if name.endswith("png") else b"")
    good, path = buffer.getvalue(), tmp_path / "set.zip"
    for number in range(60):
        bad = bytearray(good)
        # every second one in the directory, at the end
        bad[rng.integers(len(bad)) if number % 2 else -rng.integers(1, 250)] = rng.integers(256)
        path.write_bytes(bad)
        try:
            unpack(path, tmp_path / f"out{number}")
        except InputError as error:
            assert str(error).startswith(f"{path}: ") and str(error).isprintable()
        else:
            found = [item.read_bytes() for item in (tmp_path / f"out{number}").rglob("*") if item.is_file()]
            assert all(content == CONTENT for content in found)
    assert not [item for item in tmp_path.iterdir() if item.name.startswith(".")]


def test_a_zip_at_the_end_of_a_tar_is_a_member(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x.png", b"other")
    (tmp_path / "set.tar").write_bytes(tar(("a.zip", {}, buffer.getvalue()), end=bytes(1024)))
    unpack(tmp_path / "set.tar", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.zip"]


def test_small_files_have_a_limit_that_grows_with_the_archive(tmp_path):
    """A few bytes for each: no picture is so small, and a disk has only so many names."""
    members = [(f"{number}", {}, b"") for number in range(2_400)]
    assert "MiB or 2" in refused(tmp_path, "set.tar.xz", lzma.compress(tar(*members), preset=0))


def test_what_a_killed_process_left_is_removed(tmp_path, root):
    """After kill -9 nobody cleans up; the next call for the same folder does."""
    code = """
import os, signal, sys, tarfile
from pathlib import Path
from sslood.data.sets.fetching.unpack import unpack
def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
tarfile.TarFile.extract = tarfile.TarFile.extractall = kill
unpack(Path(sys.argv[1]), Path(sys.argv[2]))
"""
    path, other = tmp_path / "set.tar", tmp_path / ".out.of-somebody"
    path.write_bytes(tar(("a.png", {}, b"x")))
    other.mkdir()
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code, path, tmp_path / "out"], cwd=root)
        assert done.returncode == -signal.SIGKILL and len(os.listdir(tmp_path)) == 3
    unpack(path, tmp_path / "out")
    assert {entry.name for entry in tmp_path.iterdir()} == {"set.tar", "out", other.name}
