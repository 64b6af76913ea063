"""Archives that must be refused, and nothing of them left behind."""

import gzip
import io
import stat
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest

from sslood.core.errors import InputError
from sslood.data.sets.fetching.unpack import unpack


def tar_of(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content)
            info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            tar.addfile(info, io.BytesIO(content))


FILE = tarfile.REGTYPE
HOSTILE = {
    "parent": [("../out.png", FILE, b"x")],
    "inner parent": [("a/../../out.png", FILE, b"x")],
    "absolute": [("/tmp/out.png", FILE, b"x")],
    "windows": [("C:\\out.png", FILE, b"x")],
    "windows parent": [("..\\out.png", FILE, b"x")],
    "symbolic link": [("a.png", tarfile.SYMTYPE, b"")],
    "hard link": [("a.png", tarfile.LNKTYPE, b"")],
    "device": [("a.png", tarfile.CHRTYPE, b"")],
    "pipe": [("a.png", tarfile.FIFOTYPE, b"")],
    "twice": [("a.png", FILE, b"x"), ("a.png", FILE, b"y")],
    "case": [("a.png", FILE, b"x"), ("A.png", FILE, b"y")],
    "accents": [("\u00e9.png", FILE, b"x"), ("e\u0301.png", FILE, b"y")],
    "sparse": [("a.png", tarfile.GNUTYPE_SPARSE, b"")],
    "empty twin": [("a.png", FILE, b"x"), ("a.png", FILE, b"")],
    "file and folder": [("a", FILE, b"x"), ("a/b.png", FILE, b"y")],
    "folder and file": [("a/b.png", FILE, b"y"), ("A", FILE, b"x")],
    "long name": [("a" * 300 + ".png", FILE, b"x")],
    "bomb": [("a.png", FILE, bytes(40_000_000))],
    "bomb in pieces": [(f"{n}.png", FILE, bytes(100_000)) for n in range(400)],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_tar(tmp_path, kind):
    tar_of(tmp_path / "set.tar.gz", *HOSTILE[kind])
    with pytest.raises(InputError, match="refused"):
        unpack(tmp_path / "set.tar.gz", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"set.tar.gz"}


def test_hostile_zip(tmp_path):
    path = tmp_path / "set.zip"
    link, device = zipfile.ZipInfo("a.png"), zipfile.ZipInfo("b.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    device.external_attr = (stat.S_IFCHR | 0o777) << 16
    bomb = ("bomb.png", bytes(40_000_000))
    names = ("../out.png", "a/../../out.png", "/tmp/out.png", "C:/out.png", link, device)
    for members in (*([(name, b"x")] for name in names), [("a", b"x"), ("A", b"y")], [bomb]):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members:
                file.writestr(name, content)
        with pytest.raises(InputError, match="refused"):
            unpack(path, tmp_path / "out")
        assert {path.name for path in tmp_path.iterdir()} == {"set.zip"}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # of zipfile, while it is being made
def test_zip_with_one_name_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.writestr("a.png", b"x")
        file.writestr("a.png", b"y")
    with pytest.raises(InputError, match="share the name"):
        unpack(tmp_path / "set.zip", tmp_path / "out")


def test_zip_that_lies_about_a_size(tmp_path):
    """The directory promises 10 bytes for 10 MB of zeros: not one byte more is written."""
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", bytes(10_000_000))
    content = path.read_bytes().replace(struct.pack("<L", 10_000_000), struct.pack("<L", 10))
    path.write_bytes(content)
    with pytest.raises(InputError, match="fetch it again"):
        unpack(path, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"set.zip"}


def test_zip_with_a_password(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.png", b"x")
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flag "encrypted" of both headers
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="password"):
        unpack(path, tmp_path / "out")


def test_bomb_by_size_alone(tmp_path):
    """Content that does not compress is within any ratio; the total still has a bound."""
    content = np.random.default_rng(0).bytes(300_000)
    tar_of(tmp_path / "set.tar.gz", *((f"{n}.png", FILE, content) for n in range(4)))
    with pytest.raises(InputError, match="more than 0 MiB"):
        unpack(tmp_path / "set.tar.gz", tmp_path / "out", max_bytes=1_000_000)
    unpack(tmp_path / "set.tar.gz", tmp_path / "out", max_bytes=1_200_000)


def test_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr("sslood.data.sets.fetching.unpack.MAX_FILES", 10)
    tar_of(tmp_path / "set.tar.gz", *((f"{n}.png", FILE, b"") for n in range(11)))
    with pytest.raises(InputError, match="10 files"):
        unpack(tmp_path / "set.tar.gz", tmp_path / "out")


def test_bomb_is_refused_at_its_header(tmp_path):
    """A tar that declares 10 TB and holds nothing: nothing is decompressed or written to find out."""
    info = tarfile.TarInfo("a.png")
    info.size = 10**13
    path = tmp_path / "set.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_000)))
    with pytest.raises(InputError, match="refused, it would unpack to more"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("place", [0, 1])
def test_bomb_in_a_name(tmp_path, kind, place):
    """A header of 50 MB would be read into memory before its member is seen."""
    path, good, info = tmp_path / "set.tar.gz", tarfile.TarInfo("a.png"), tarfile.TarInfo("b.png")
    info.type, info.size = kind, 50_000_000
    path.write_bytes(
        gzip.compress(good.tobuf() * place + info.tobuf(tarfile.GNU_FORMAT) + bytes(50_001_000), 1)
    )
    tracemalloc.start()
    with pytest.raises(InputError, match="refused, a name of 50000000 bytes"):
        unpack(path, tmp_path / "out")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert {path.name for path in tmp_path.iterdir()} == {"set.tar.gz"}


def test_no_archive_at_all(tmp_path):
    (tmp_path / "set.tar.gz").write_text("<html>Not found</html>")
    with pytest.raises(InputError, match="not an archive") as failure:
        unpack(tmp_path / "set.tar.gz", tmp_path / "out")
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("name", ["set.tar.gz", "set.zip"])
def test_broken_archive_leaves_nothing(tmp_path, name):
    path = tmp_path / name
    content = bytes(range(256)) * 200
    if name.endswith("zip"):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.png", content)
        path.write_bytes(path.read_bytes().replace(content[:64], b"\0" * 64, 1))
    else:
        tar_of(path, ("a.png", FILE, content))
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="fetch it again"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_good_archives(tmp_path):
    tar_of(tmp_path / "set.tar.gz", ("a", tarfile.DIRTYPE, b""), ("a/b.png", FILE, b"hello"))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.writestr("a/", "")
        file.writestr("a/b.png", "hello")
    for name in ("set.tar.gz", "set.zip"):
        unpack(tmp_path / name, tmp_path / f"{name}.out")
        assert (tmp_path / f"{name}.out/a/b.png").read_bytes() == b"hello"
