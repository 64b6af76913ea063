"""Fixtures of the data room."""

import errno
import os
import subprocess
from collections.abc import Iterator
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


_MOUNT = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && echo && exec sleep 600'


@pytest.fixture
def read_only(tmp_path) -> Iterator[Path]:
    """A folder on a file system that is truly mounted read-only, for root too, with one file in it.

    It is mounted so for another process alone, and seen through that process's /proc entry. Where the
    system forbids that (as containers do), a place that it has itself mounted read-only will do.
    """
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/here.txt").write_text("here")
    alone = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    with subprocess.Popen(
        [*alone, "sh", "-c", _MOUNT, tmp_path / "disk"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as holder:
        mounted = holder.stdout.readline() == b"\n"
        places = [Path(f"/proc/{holder.pid}/root{tmp_path}/disk")] if mounted else []
        mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
        places += [Path(fields[1]) for fields in mounts if "ro" in fields[3].split(",")]
        place = next(filter(_refuses, places), None)
        if place is None:
            pytest.skip("this system neither has nor allows a read-only file system")
        yield place
        holder.kill()


def _refuses(place: Path) -> bool:
    try:
        (place / "written").mkdir()
    except OSError as error:
        return error.errno == errno.EROFS
    (place / "written").rmdir()
    return False
