"""Archives that are damaged, or lie to the library that reads them: one sentence, and nothing left."""

import gzip
import io
import os
import signal
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

from sslood.core.errors import InputError
from sslood.data.sets.fetching.unpack import Member, Members, unpack
from tests.trials.hostile import MEMBERS, NOISE, PACK, TARS, tar


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


@pytest.mark.parametrize("kind", TARS)
def test_a_tar_that_lies(tmp_path, kind):
    content = gzip.compress(TARS[kind]())
    tracemalloc.start()
    refused(tmp_path, "set.tar.gz", content)
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("packed", PACK)
def test_a_changed_bit_is_noticed(tmp_path, packed):
    """gzip, bzip2 and xz keep a checksum of their content, a tar of its headers."""
    good = tar(*((name, {}, content) for name, content in MEMBERS.items()))
    # the first bytes of a packed file hold a date and the like
    places = range(12, len(content := PACK[packed](good)))
    if packed == "plain":
        starts = [good.index(name.encode()) for name in MEMBERS]
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
            silent += found != MEMBERS
    assert not silent


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_a_tar_that_is_cut_short(tmp_path, packed, share):
    """Also where a member ends, and in the middle of a header: the end has a mark of its own."""
    good = tar(("a.png", {}, NOISE[:512]), ("b.png", {}, NOISE[:512]), end=bytes(1024))
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
            file.writestr(name, NOISE if name.endswith("png") else b"")
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
            assert all(content == NOISE for content in found)
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
    (tmp_path / "set.tar.xz").write_bytes(bytes(10_000))
    members = Members(tmp_path / "set.tar.xz")
    with pytest.raises(InputError, match="MiB or 2200 files"):
        for number in range(2201):
            members.check(Member(f"{number}.png", 0, "file"))


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


def test_a_python_without_filters_of_tarfile_unpacks_too(tmp_path, root):
    """Python 3.11.0 to 3.11.3, such as Debian 12's."""
    code = """
import sys, tarfile
from pathlib import Path
new = tarfile.TarFile.extract
def old(self, member, path="", set_attrs=True, *, numeric_owner=False):
    new(self, member, path, set_attrs, numeric_owner=numeric_owner)
tarfile.TarFile.extract = old
if hasattr(tarfile, "data_filter"):
    del tarfile.data_filter
    tarfile.TarFile.extraction_filter = staticmethod(lambda member, path: member)
from sslood.data.sets.fetching.unpack import unpack
unpack(Path(sys.argv[1]), Path(sys.argv[2]))
"""
    path = tmp_path / "set.tar"
    path.write_bytes(tar(("folder/a.png", {}, b"x")))
    subprocess.run([sys.executable, "-c", code, path, tmp_path / "out"], cwd=root, check=True)
    assert (tmp_path / "out/folder/a.png").read_bytes() == b"x"
