"""Archives that must be refused, and nothing of them left behind."""

import io
import stat
import tarfile
import zipfile

import pytest

from stages.core.errors import InputError
from stages.data.unpack import unpack


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
    "bomb": [("a.png", FILE, bytes(40_000_000))],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_tar(tmp_path, kind):
    tar_of(tmp_path / "set.tar.gz", *HOSTILE[kind])
    with pytest.raises(InputError, match="refused"):
        unpack(tmp_path / "set.tar.gz", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"set.tar.gz"}


def test_hostile_zip(tmp_path):
    path = tmp_path / "set.zip"
    link = zipfile.ZipInfo("a.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    for name, content in (("../out.png", b"x"), (link, b"/etc/passwd"), ("bomb.png", bytes(40_000_000))):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(name, content)
        with pytest.raises(InputError, match="refused"):
            unpack(path, tmp_path / "out")
        assert {path.name for path in tmp_path.iterdir()} == {"set.zip"}


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
