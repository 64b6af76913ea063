"""Disks that are read-only or full, truly so: one sentence that names the place, and nothing half-written."""

import io
import tarfile

import numpy as np
import pytest

from sslood.core.errors import InputError
from sslood.data.sets.fetching import fetch
from sslood.data.sets.fetching.transfer import sums
from tests.data.commands import download_words, invoke
from tests.data.serving import BODY, entry

NOISE = {
    "size": 64, "channels": 3, "validation": 0.1, "count": 50, "limit": 0, "seed": 0, "test": 0.3
}  # fmt: skip


def made(out, tmp_path):
    """Run the stage on a set of 600 kB and return what it says."""
    words = download_words(tmp_path / "x", "uniform", {"role": "far", "source": "uniform"}, NOISE)
    words[words.index("--out") + 1] = str(out)
    result = invoke(words)
    assert result.exit_code == 1 and result.output.count("\n") == 1
    return result.output


def refused(made_up, match):
    with pytest.raises(InputError, match=match) as failure:
        fetch.locate(*made_up)
    assert "\n" not in str(failure.value) and "SSLOOD_DATA_CACHE names another folder" in str(failure.value)
    return str(failure.value)


def packed(mirror):
    """Make a mirror folder whose archive holds 600 kB, and return its entry."""
    mirror.mkdir()
    content = np.random.default_rng(0).bytes(200_000)
    with tarfile.open(mirror / "pictures.tar.gz", "w:gz") as tar:
        for number in range(3):
            info = tarfile.TarInfo(f"pictures/{number}.png")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    md5 = sums(mirror / "pictures.tar.gz").md5
    return entry(name="pictures.tar.gz", md5=md5, inside="pictures")


@pytest.mark.parametrize("inner", ["", "new/folder"])
def test_set_file_on_a_read_only_disk(read_only, tmp_path, inner):
    said = made(read_only / inner / "noise.safetensors", tmp_path)
    assert str(read_only) in said and "is read-only; choose a place" in said


@pytest.mark.parametrize("inner", ["", "new/cache"])
def test_cache_on_a_read_only_disk(server, read_only, monkeypatch, inner):
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(read_only / inner))
    assert str(read_only) in refused(entry(f"{server.address}/ok/images.bin"), "the file system is read-only")
    assert server.log == []  # no other address would help


def test_unpacking_to_a_read_only_disk(read_only, tmp_path, monkeypatch):
    made_up = packed(tmp_path / "mirror")
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(read_only))
    refused(made_up, "the file system is read-only")


def test_reading_needs_no_writing(read_only, monkeypatch):
    """A mirror may be read-only: its files are used where they are."""
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(read_only))
    for path in read_only.glob("here.txt"):
        found = fetch.locate(*entry(name=path.name, md5=""))
        assert found.path == path and found.checked == "none published"


def test_set_file_on_a_full_disk(small_disk, tmp_path):
    (small_disk / "noise.safetensors").write_text("of an earlier run")
    said = made(small_disk / "noise.safetensors", tmp_path)
    assert "noise.safetensors: the disk is full; free some space" in said
    assert [path.read_text() for path in small_disk.iterdir()] == ["of an earlier run"]


def test_download_to_a_full_disk_goes_on_where_it_stopped(server, small_disk, monkeypatch):
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(small_disk))
    made_up = entry(f"{server.address}/ok/images.bin", f"{server.address}/ok/2/images.bin")
    refused(made_up, "the disk is full")
    (part,) = (small_disk / "made_up").glob("*.part")
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(server.cache))
    (server.cache / "made_up").mkdir(parents=True)
    (server.cache / "made_up/images.bin.part").write_bytes(part.read_bytes())
    assert fetch.locate(*made_up).path.read_bytes() == BODY
    assert len(server.log) == 2 and server.log[1][1]["Range"] == f"bytes={part.stat().st_size}-"


def test_unpacking_to_a_full_disk_leaves_nothing(small_disk, tmp_path, monkeypatch):
    made_up = packed(tmp_path / "mirror")
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(small_disk))
    refused(made_up, "the disk is full")
    assert [path.name for path in (small_disk / "made_up").iterdir() if path.is_dir()] == []
