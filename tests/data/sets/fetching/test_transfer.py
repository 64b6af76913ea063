"""Downloads that go wrong, each against a real HTTP or HTTPS server on this machine."""

import datetime
import gzip
import hashlib
import ipaddress
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sslood.core.errors import InputError
from sslood.data.sets.fetching import fetch, transfer
from tests.data.commands import download_words, invoke
from tests.data.serving import BODY, MD5, entry, serving


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    """Waits of a few milliseconds instead of seconds."""
    monkeypatch.setattr(transfer, "BACK_OFF", 0.01)
    monkeypatch.setattr(transfer, "TIMEOUT", (2, 0.5))


def refused(made, match):
    """Fail with one sentence that matches, names the set, and says how to help oneself."""
    with pytest.raises(InputError, match=match) as failure:
        fetch.locate(*made)
    assert "\n" not in str(failure.value) and "SSLOOD_DATA_" in str(failure.value)


def start(tmp_path, content):
    """Leave a half file as a killed run does."""
    part = tmp_path / "cache/made_up/images.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    return part


def names(tmp_path):
    return {path.name for path in (tmp_path / "cache/made_up").iterdir()} - {"images.bin.lock"}


@pytest.mark.parametrize("link", ["symlink", "hard link", "pipe"])
@pytest.mark.parametrize("published", [MD5, ""])
def test_a_half_file_that_leads_elsewhere_is_not_written_to(server, tmp_path, link, published):
    part, other = start(tmp_path, b""), tmp_path / "precious"
    part.unlink()
    other.write_bytes(BODY[:1000])
    if link == "pipe":
        os.mkfifo(part)
    else:
        (part.symlink_to if link == "symlink" else part.hardlink_to)(other)
    name, file = entry(f"{server.address}/ok/images.bin")
    found = fetch.locate(name, replace(file, md5=published))
    assert found.path.read_bytes() == BODY and other.read_bytes() == BODY[:1000]
    assert not found.path.is_symlink() and names(tmp_path) == {"images.bin"}


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("images.bin.part", Path.mkdir, "images.bin.part: cannot be written .a folder of that name"),
        ("images.bin", Path.mkdir, "cannot be written .a folder of that name is in the way"),
        ("images.bin.lock", lambda path: path.symlink_to("elsewhere"), "a link is in the way; remove it"),
    ],
)
def test_what_stands_in_the_way_in_the_cache_is_named(server, tmp_path, name, make, words):
    (tmp_path / "cache/made_up").mkdir(parents=True)
    make(tmp_path / "cache/made_up" / name)
    refused(entry(f"{server.address}/ok/images.bin"), words)


@pytest.mark.parametrize(
    ("kind", "words", "requests"),
    [("missing", "404", 1), ("forbidden", "403", 1), ("gone", "410", 1), ("failing", "500", 5),
     ("overloaded", "429", 5), ("loop", "too many redirects", 11)],
)  # fmt: skip
def test_answers_that_bring_nothing(server, kind, words, requests):
    """A refusal is final; a busy or failing server is asked TRIES times more."""
    refused(entry(f"{server.address}/{kind}/images.bin"), words)
    assert len(server.log) == requests


def test_retry_after_is_obeyed_but_not_for_a_day(server, monkeypatch):
    monkeypatch.setattr(transfer, "LONGEST_WAIT", 0.3)
    begin = time.monotonic()
    fetch.locate(*entry(f"{server.address}/patient/images.bin"))
    assert 0.6 <= time.monotonic() - begin < 10 and len(server.log) == 3


def test_back_off_doubles(server, monkeypatch):
    monkeypatch.setattr(transfer, "BACK_OFF", 0.05)
    begin = time.monotonic()
    refused(entry(f"{server.address}/failing/images.bin"), "500")
    assert time.monotonic() - begin >= 0.05 * (2 + 4 + 8)


def test_server_that_never_answers(server):
    refused(entry(f"{server.address}/silent/images.bin"), "no answer in time")
    assert len(server.log) == 2


def test_endless_body_stops_at_the_published_or_allowed_length(server, tmp_path, monkeypatch):
    refused(
        entry(f"{server.address}/endless/images.bin", size=3_000_000), "longer than the 3000000 .*published"
    )
    monkeypatch.setattr(transfer, "MAX_DOWNLOAD", 1_000_000)
    refused(entry(f"{server.address}/endless/images.bin"), "longer than the 1000000 .*allowed")
    assert names(tmp_path) == set()


def test_length_that_is_promised_but_not_sent(server):
    """The rest is asked for, and a server that says there is none is believed: the checksum decides."""
    path = fetch.locate(*entry(f"{server.address}/long/images.bin")).path
    assert path.read_bytes() == BODY and len(server.log) == 2
    path.unlink()
    refused(entry(f"{server.address}/liar/images.bin"), "connection broke|never sent the whole")
    assert len(server.log) < 8


def test_length_that_is_too_small(server, tmp_path):
    refused(entry(f"{server.address}/short/images.bin"), "is not used")
    refused(entry(f"{server.address}/short/images.bin", md5="", size=len(BODY)), "bytes long, published are")
    assert names(tmp_path) == {"images.bin.part.refused"}


def test_wrong_checksum_is_kept_aside_and_never_used(server, tmp_path):
    for kind in ("md5", "sha256"):
        refused(entry(f"{server.address}/ok/images.bin", **{kind: "0" * (32 if kind == "md5" else 64)}), kind)
        assert names(tmp_path) == {"images.bin.part.refused"}
    assert (tmp_path / "cache/made_up/images.bin.part.refused").read_bytes() == BODY


def test_resume_asks_for_the_rest(server):
    found = fetch.locate(*entry(f"{server.address}/broken/images.bin"))
    first, second = (headers for _, headers in server.log)
    assert "Range" not in first and second["Range"].startswith("bytes=")
    assert found.path.read_bytes() == BODY and found.sha256 == hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize("md5", [MD5, ""])
def test_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path, md5):
    found = fetch.locate(*entry(f"{server.address}/changed/images.bin", md5=md5))
    assert found.path.read_bytes() == BODY and len(server.log) == (3 if md5 else 2)
    assert names(tmp_path) == {"images.bin"}


def test_without_checksum_two_halves_make_no_whole(server):
    assert fetch.locate(*entry(f"{server.address}/broken/images.bin", md5="")).path.read_bytes() == BODY
    assert [headers.get("Range") for _, headers in server.log] == [None, None]


def test_half_file_of_an_earlier_run_needs_a_checksum(server, tmp_path):
    part = start(tmp_path, BODY[:1000])
    fetch.locate(*entry(f"{server.address}/ok/images.bin"))
    assert server.log[0][1]["Range"] == "bytes=1000-"
    (tmp_path / "cache/made_up/images.bin").unlink()
    part.write_bytes(b"other" * 100)
    made = entry(f"{server.address}/ok/images.bin", md5="")
    assert fetch.locate(*made).path.read_bytes() == BODY and "Range" not in server.log[1][1]


def test_complete_half_file_is_not_fetched_again(server, tmp_path):
    start(tmp_path, BODY)
    assert fetch.locate(*entry(f"{server.address}/ok/images.bin")).checked == "published md5"
    assert [headers["Range"] for _, headers in server.log] == [f"bytes={len(BODY)}-"]
    assert names(tmp_path) == {"images.bin"}


@pytest.mark.parametrize("content", [b"x" * 1000, b"x" * len(BODY), BODY + b"x"])
def test_spoilt_half_file_is_fetched_anew(server, tmp_path, content):
    start(tmp_path, content)
    assert fetch.locate(*entry(f"{server.address}/ok/images.bin")).path.read_bytes() == BODY
    assert len(server.log) == 2 and names(tmp_path) == {"images.bin"}


def test_gz_file_labelled_as_encoded_is_kept_as_it_is(server):
    content = gzip.compress(b"labels", mtime=0)
    server.bodies["labels.gz"] = content
    made = entry(
        f"{server.address}/labelled/labels.gz", name="labels.gz", md5=hashlib.md5(content).hexdigest()
    )
    assert fetch.locate(*made).path.read_bytes() == content


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return the context of a server for 127.0.0.1 whose certificate, cert.pem, nobody else signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now - day, now + day
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(*pem))
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def test_certificate_that_nobody_signed(server, tmp_path, monkeypatch):
    with serving(self_signed(tmp_path)) as secure:
        made = entry(f"{secure.address}/ok/images.bin")
        refused(made, "certificate was not accepted")
        assert secure.log == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))
        assert fetch.locate(*made).path.read_bytes() == BODY


def test_two_processes_fetch_one_file_once(server):
    code = (
        "import sys; from sslood.data.sets.fetching import fetch; from tests.data.serving import entry; "
        "print(fetch.locate(*entry(sys.argv[1])).sha256)"
    )
    command = [sys.executable, "-c", code, f"{server.address}/ok/images.bin"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate()[0].strip() for run in runs] == [hashlib.sha256(BODY).hexdigest()] * 2
    assert len(server.log) == 1


def test_full_disk(server, monkeypatch):
    """/dev/full answers every write with the error of a full disk; no second address is tried."""
    full = lambda path, mode: open("/dev/full" if mode == "wb" else path, mode)  # noqa: E731
    monkeypatch.setattr(transfer, "open", full, raising=False)
    refused(entry(f"{server.address}/ok/images.bin", f"{server.address}/ok/2/images.bin"), "the disk is full")
    assert len(server.log) == 1


@pytest.fixture
def unwritable():
    """A folder that this process may read but not write, also where the tests run as root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    shutil.rmtree(folder)


def test_folder_that_cannot_be_written(server, unwritable, monkeypatch):
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(unwritable / "cache"))
    refused(entry(f"{server.address}/ok/images.bin"), "permission denied.*SSLOOD_DATA_CACHE names another")
    assert server.log == []


def test_set_file_that_cannot_be_written(unwritable):
    """One sentence that names the file, and nothing half-written."""
    settings = {"size": 8, "channels": 1, "validation": 0.1, "count": 8, "limit": 0, "seed": 0, "test": 0.3}
    with tempfile.TemporaryDirectory() as other:
        words = download_words(Path(other, "x"), "uniform", {"role": "far", "source": "uniform"}, settings)
        words[words.index("--out") + 1] = str(unwritable / "uniform.safetensors")
        result = invoke(words)
    assert result.exit_code == 1 and "permission denied" in result.output and str(unwritable) in result.output
    assert result.output.count("\n") == 1 and not list(unwritable.iterdir())


def test_proxy_of_the_environment(server, monkeypatch):
    """A proxy gets the whole address, whose host this machine could not even look up."""
    monkeypatch.setenv("http_proxy", server.address)
    assert fetch.locate(*entry("http://publisher.invalid/ok/images.bin")).path.read_bytes() == BODY
    assert [path for path, _ in server.log] == ["http://publisher.invalid/ok/images.bin"]


def test_proxy_that_is_not_there_and_hosts_that_need_none(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "publisher.invalid")
    refused(entry("http://elsewhere.invalid/images.bin"), "the proxy refused or could not be reached")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fetch.locate(*entry(f"{server.address}/ok/images.bin")).path.read_bytes() == BODY


def test_cache_that_is_a_file(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(tmp_path / "file"))
    refused(entry(f"{server.address}/ok/images.bin"), "is not a folder")
