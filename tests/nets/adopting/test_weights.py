"""Weights from files and addresses: checksums hold, and a pickle that would run code is refused."""

import argparse
import hashlib
import http.server
import threading
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from sslood.core.errors import InputError
from sslood.nets.adopting.weights import locate_weights, read_checkpoint


class Touch:
    """What it unpickles to is a call."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights" / "net.pth"
    path.parent.mkdir()
    torch.save({"state_dict": {"a": torch.arange(3.0)}}, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_path_and_a_path_below_the_mirror(file, tmp_path, monkeypatch):
    path, digest = file
    assert locate_weights(str(path), digest) == path
    with pytest.raises(InputError, match="'weights/net.pth': no such file here; put it there"):
        locate_weights("weights/net.pth", digest)
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(tmp_path))
    assert locate_weights("weights/net.pth", digest) == path
    with pytest.raises(InputError, match=f"its sha256 is {digest}, published is 0000"):
        locate_weights("weights/net.pth", "0" * 64)


@pytest.fixture
def server(tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))
    ) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{service.server_address[1]}"
        service.shutdown()


def test_an_address_is_fetched_once_and_held_against_its_checksum(file, server, tmp_path, monkeypatch):
    path, digest = file
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    address = f"{server}/weights/net.pth"
    with pytest.raises(InputError, match="published is 1111"):
        locate_weights(address, "1" * 64)
    found = locate_weights(address, digest)
    assert found.read_bytes() == path.read_bytes()
    path.unlink()
    assert locate_weights(address, digest) == found
    with pytest.raises(InputError, match="the server answered 404"):
        locate_weights(f"{server}/weights/none.pth", digest)


def test_checkpoints_and_safetensors_are_read(file, tmp_path):
    assert torch.equal(read_checkpoint(file[0])["state_dict"]["a"], torch.arange(3.0))
    save_file({"b": torch.ones(2)}, tmp_path / "w.safetensors")
    assert torch.equal(read_checkpoint(tmp_path / "w.safetensors")["b"], torch.ones(2))


def test_options_beside_the_weights_are_read_past(tmp_path):
    """DINO's and SupContrast's checkpoints hold the Namespace of their options."""
    options = argparse.Namespace(lr=0.5, steps=[1, 2], more={"a": None})
    torch.save({"opt": options, "model": {"a": torch.ones(2)}}, tmp_path / "last.pth")
    assert torch.equal(read_checkpoint(tmp_path / "last.pth")["model"]["a"], torch.ones(2))
    torch.save({"opt": argparse.Namespace(path=tmp_path), "model": {}}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="holds Python objects .pathlib"):
        read_checkpoint(tmp_path / "other.pth")


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"state_dict": Touch(tmp_path / "ran")}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match="holds Python objects .* could run code"):
        read_checkpoint(tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "text.pth", "empty.pth"])
def test_what_is_no_checkpoint_is_named(file, tmp_path, name):
    path = tmp_path / name
    if name == "cut.pth":
        path.write_bytes(file[0].read_bytes()[:200])
    elif name == "cut.safetensors":
        save_file({"b": torch.ones(200)}, path)
        path.write_bytes(path.read_bytes()[:300])
    else:
        path.write_text("<html>not found</html>" if name == "text.pth" else "")
    with pytest.raises(InputError, match=name):
        read_checkpoint(path)
