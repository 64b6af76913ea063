"""Disks that are mounted read-only: one sentence that names the place, whoever wanted to write there."""

import tarfile

import pytest
from click.testing import CliRunner

from stages.core.errors import InputError
from stages.data.sets import fetch
from stages.data.sets.transfer import sums
from stages.download import main
from tests.data.serving import entry

BLOBS = (
    "--set blobs --role far --id digits --size 8 --channels 1 --validation 0.1 --count 8 --limit 0 --seed 0"
)


@pytest.mark.parametrize("inner", ["", "new/folder"])
def test_set_file(read_only, inner):
    out = read_only / inner / "blobs.safetensors"
    result = CliRunner().invoke(main, [*BLOBS.split(), "--seed", "0", "--test", "0.3", "--out", str(out)])
    assert result.exit_code == 1 and result.output.count("\n") == 1
    assert str(read_only) in result.output and "is read-only; choose a place" in result.output


@pytest.mark.parametrize("inner", ["", "new/cache"])
def test_cache(server, read_only, monkeypatch, inner):
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(read_only / inner))
    with pytest.raises(InputError, match="read-only.*SSLOOD_DATA_CACHE names another folder") as failure:
        fetch.locate(*entry(f"{server.address}/ok/images.bin"))
    assert str(read_only) in str(failure.value) and "\n" not in str(failure.value)
    assert server.log == []  # no other address would help


def test_unpacking(read_only, tmp_path, monkeypatch):
    """The archive is in a mirror folder, and what it holds would go to the cache."""
    (tmp_path / "mirror/pictures").mkdir(parents=True)
    (tmp_path / "mirror/pictures/a.png").write_bytes(b"x")
    archive = tmp_path / "mirror/pictures.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "mirror/pictures", "pictures")
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(read_only))
    with pytest.raises(InputError, match="cannot be written .*read-only.*SSLOOD_DATA_CACHE"):
        fetch.locate(*entry(name=archive.name, md5=sums(archive).md5, inside="pictures"))


def test_reading_needs_no_writing(read_only, monkeypatch):
    """A mirror may be read-only: its files are used where they are."""
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(read_only))
    for path in read_only.glob("here.txt"):
        found = fetch.locate(*entry(name=path.name, md5=""))
        assert found.path == path and found.checked == "none published"
