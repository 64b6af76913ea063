"""Where files are looked for, and what is kept: against a real HTTP server on this machine."""

import gzip
import hashlib
import io
import tarfile
import threading

import pytest

from sslood.core.errors import InputError
from sslood.data.sets.fetching import fetch
from sslood.data.sets.fetching.published import Published
from tests.data.serving import BODY, entry


def test_fetches_once_and_then_from_the_cache(server):
    made = entry(f"{server.address}/ok/images.bin")
    found = fetch.locate(*made)
    assert found.path.read_bytes() == BODY and found.checked == "published md5"
    assert found.sha256 == hashlib.sha256(BODY).hexdigest()
    assert fetch.locate(*made) == found and len(server.log) == 1
    assert not list(found.path.parent.glob("*.part"))


@pytest.mark.parametrize("kind", ["broken", "plain"])
def test_dropped_connection(server, kind):
    found = fetch.locate(*entry(f"{server.address}/{kind}/images.bin"))
    assert found.path.read_bytes() == BODY
    assert len(server.log) == 2 and server.log[1][1]["Range"].startswith("bytes=")


def test_half_file_of_a_killed_run_goes_on(server, tmp_path):
    part = tmp_path / "cache/made_up/images.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY[:1000])
    assert fetch.locate(*entry(f"{server.address}/ok/images.bin")).path.read_bytes() == BODY
    assert server.log[0][1]["Range"] == "bytes=1000-"


def test_second_address_serves_when_the_first_fails(server):
    made = entry(f"{server.address}/missing/images.bin", f"{server.address}/ok/images.bin")
    assert fetch.locate(*made).path.read_bytes() == BODY


def test_busy_server_is_asked_again(server):
    assert fetch.locate(*entry(f"{server.address}/busy/images.bin")).path.read_bytes() == BODY
    assert len(server.log) == 3


def test_failure_is_one_sentence_with_every_address_and_the_way_out(server):
    kinds = {"missing": "404", "forbidden": "403", "loop": "redirects", "dead": "connection broke"}
    made = entry(*(f"{server.address}/{kind}/images.bin" for kind in kinds))
    with pytest.raises(InputError) as failure:
        fetch.locate(*made)
    message = str(failure.value)
    assert "'made_up'" in message and "SSLOOD_DATA_MIRROR" in message and "\n" not in message
    for kind, words in kinds.items():
        assert f"/{kind}/images.bin" in message and words in message


def test_no_server(server):
    with pytest.raises(InputError, match="no connection"):
        fetch.locate(*entry("http://127.0.0.1:1/images.bin"))


def test_wrong_checksum_is_kept_aside_and_never_used(server, tmp_path):
    made = entry(f"{server.address}/ok/images.bin", md5="0" * 32)
    with pytest.raises(InputError, match="is not used"):
        fetch.locate(*made)
    names = {path.name for path in (tmp_path / "cache/made_up").iterdir()} - {"images.bin.lock"}
    assert names == {"images.bin.part.refused"}


def test_spoilt_cache_is_fetched_again(server):
    made = entry(f"{server.address}/ok/images.bin")
    path = fetch.locate(*made).path
    path.write_bytes(b"spoilt")
    assert fetch.locate(*made).path.read_bytes() == BODY
    assert path.with_name("images.bin.refused").read_bytes() == b"spoilt"


def test_body_beyond_the_limit_is_refused(server):
    with pytest.raises(InputError, match="longer than"):
        fetch.locate(*entry(f"{server.address}/ok/images.bin", size=1000))


def archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("pictures/a.png")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"hello"))
    return out.getvalue()


def packed(content: bytes, *sources: str) -> tuple[str, Published]:
    md5 = hashlib.md5(content).hexdigest()
    return entry(*sources, name="pictures.tar.gz", md5=md5, inside="pictures", folders=("pictures",))


def test_mirror_address_comes_first(server, monkeypatch):
    server.bodies["pictures.tar.gz"] = content = archive()
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", f"{server.address}/ok/")
    found = fetch.locate(*packed(content, f"{server.address}/missing/pictures.tar.gz"))
    assert (found.path / "a.png").read_bytes() == b"hello"
    assert [path for path, _ in server.log] == ["/ok/pictures.tar.gz"]


def test_mirror_folder_serves_archive_or_unpacked_content(server, tmp_path, monkeypatch):
    content = archive()
    made = packed(content, f"{server.address}/ok/pictures.tar.gz")
    for kind in ("archive", "unpacked"):
        mirror = tmp_path / kind
        mirror.mkdir()
        monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(mirror))
        if kind == "archive":
            (mirror / "pictures.tar.gz").write_bytes(content)
        else:
            (mirror / "pictures").mkdir()
            (mirror / "pictures/a.png").write_bytes(b"hello")
        found = fetch.locate(*made)
        assert (found.path / "a.png").read_bytes() == b"hello"
        assert found.checked == ("published md5" if kind == "archive" else "unpacked copy")
    assert server.log == []


@pytest.mark.parametrize("known", [False, True])
def test_mirror_folder_serves_a_file_without_its_gz(server, tmp_path, monkeypatch, known):
    """As torchvision leaves MNIST. Where the published content is known, it has to be that."""
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    path = tmp_path / "mnist/labels-idx1-ubyte"
    path.write_bytes(b"labels")
    more = {"content": hashlib.sha256(b"labels").hexdigest()} if known else {}
    places = {"name": "labels-idx1-ubyte.gz", "mirror": ("MNIST/raw", "mnist"), **more}
    made = entry(f"{server.address}/ok/labels-idx1-ubyte.gz", **places)
    checked, sha256 = "published content" if known else "unpacked copy", hashlib.sha256(b"labels").hexdigest()
    assert fetch.locate(*made) == fetch.Located(path, checked, sha256)
    path.write_bytes(b"others")
    if known:
        with pytest.raises(InputError, match="labels-idx1-ubyte: does not hold what the published labels"):
            fetch.locate(*made)
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(b"spoilt")
    with pytest.raises(InputError, match=r"ubyte.gz: its md5"):
        fetch.locate(*made)  # the published file itself comes first
    assert server.log == []


def test_spoilt_mirror_file_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(tmp_path))
    (tmp_path / "images.bin").write_bytes(b"half")
    with pytest.raises(InputError, match="images.bin: its md5"):
        fetch.locate(*entry(f"{server.address}/ok/images.bin"))


def test_mirror_that_is_no_folder(server, monkeypatch):
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", "/no/such/folder")
    with pytest.raises(InputError, match="SSLOOD_DATA_MIRROR"):
        fetch.locate(*entry(f"{server.address}/ok/images.bin"))


def test_two_at_once_fetch_one_file(server):
    made = entry(f"{server.address}/ok/images.bin")
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch.locate(*made))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(server.log) == 1


def test_recompressed_copy_is_known_by_its_content(server, tmp_path):
    content = hashlib.sha256(b"labels").hexdigest()
    (tmp_path / "installed").mkdir()
    path = tmp_path / "installed/labels.gz"
    places = {"name": "labels.gz", "content": content, "installed": (str(path.parent),)}
    made = entry(f"{server.address}/missing/labels.gz", **places)
    path.write_bytes(gzip.compress(b"labels", 1))
    assert fetch.locate(*made).path == path and fetch.locate(*made).checked == "published content"
    for spoilt in (gzip.compress(b"other"), gzip.compress(b"labels")[:-4], b"no gzip"):
        path.write_bytes(spoilt)
        with pytest.raises(InputError, match="labels.gz: its md5"):
            fetch.locate(*made)
