"""Fixtures of the data room."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.data.serving import serving


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A badly behaving HTTP server; the download cache is an empty folder, and no proxy is asked."""
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SSLOOD_DATA_MIRROR", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        for spelt in (name, name.upper()):
            monkeypatch.delenv(spelt, raising=False)
    with serving() as httpd:
        httpd.cache = tmp_path / "cache"
        yield httpd


@pytest.fixture
def fashion_mnist() -> Path:
    """Folder of the real Fashion-MNIST: apt install dataset-fashion-mnist (no network is used in tests)."""
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    return folder


@contextmanager
def _mounted(folder: Path, mount: str) -> Iterator[Path | None]:
    """Run a shell command that mounts something on `folder` ($0), and yield the place where that is seen.

    It is mounted for another process alone, and seen through that process's /proc entry. None: the system
    allows neither root nor a user of a namespace of his own to do so (as containers often do not).
    """
    alone = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    command = [*alone, "sh", "-c", f"{mount} && echo && exec sleep 600", folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as holder:
        try:
            done = holder.stdout.readline() == b"\n"
            yield Path(f"/proc/{holder.pid}/root{folder}") if done else None
        finally:
            holder.kill()


@pytest.fixture
def read_only(tmp_path) -> Iterator[Path]:
    """A folder on a file system that is truly mounted read-only, for root too, with a file here.txt in it.

    Where mounting is forbidden a place that the system has itself mounted read-only will do (an empty one).
    """
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/here.txt").write_text("here")
    with _mounted(tmp_path / "disk", 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"') as place:
        mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
        places = [place] if place else [Path(at) for _, at, _, how, *_ in mounts if "ro" in how.split(",")]
        found = next(filter(_refuses, places), None)
        if found is None:
            pytest.skip("this system neither has nor allows a read-only file system")
        yield found


def _refuses(place: Path) -> bool:
    try:
        (place / "written").mkdir()
    except OSError as error:
        return error.errno == errno.EROFS
    (place / "written").rmdir()
    return False


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of its own of 256 KiB."""
    (tmp_path / "disk").mkdir()
    with _mounted(tmp_path / "disk", 'mount -t tmpfs -o size=256k tmpfs "$0"') as place:
        if place is None:
            pytest.skip("this system does not allow to mount a disk")
        yield place
