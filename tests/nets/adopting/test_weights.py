"""Weights from files and addresses: checksums hold, and a pickle that would run code is refused."""

import argparse
import collections
import hashlib
import http.server
import re
import threading
import zipfile
from collections import defaultdict
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sslood.core.errors import InputError
from sslood.nets.adopting.layouts import Layout, weights_of
from sslood.nets.adopting.weights import locate_weights, read_checkpoint
from tests.trials.hostile import KEYS, NOT_BESIDE, ODD


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


def test_the_query_of_an_address_is_no_part_of_the_name(server, tmp_path, monkeypatch):
    """Links of Hugging Face end in it; a name .safetensors?download=true was read as a pickle."""
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    save_file({"a": torch.arange(3.0)}, tmp_path / "net.safetensors")
    digest = hashlib.sha256((tmp_path / "net.safetensors").read_bytes()).hexdigest()
    found = locate_weights(f"{server}/net.safetensors?download=true", digest)
    assert found.name == "net.safetensors" and read_checkpoint(found)["a"].tolist() == [0, 1, 2]


def test_checkpoints_and_safetensors_are_read(file, tmp_path):
    assert torch.equal(read_checkpoint(file[0])["state_dict"]["a"], torch.arange(3.0))
    save_file({"b": torch.ones(2)}, tmp_path / "w.safetensors")
    assert torch.equal(read_checkpoint(tmp_path / "w.safetensors")["b"], torch.ones(2))


def test_options_beside_the_weights_are_read_past(tmp_path):
    """DINO's and SupContrast's checkpoints hold the Namespace of their options."""
    options = argparse.Namespace(lr=0.5, steps=[1, 2], more={"a": None})
    torch.save({"opt": options, "model": {"a": torch.ones(2)}}, tmp_path / "last.pth")
    assert torch.equal(read_checkpoint(tmp_path / "last.pth")["model"]["a"], torch.ones(2))


def test_numbers_arrays_paths_and_defaultdicts_are_read_past(tmp_path):
    """Nothing of NumPy or pathlib is called, so nothing is kept; a defaultdict is a dict."""
    weights = defaultdict(list, a=torch.ones(2), b=torch.nn.Parameter(torch.zeros(1)))
    beside = {
        "numbers": [np.float64(0.5), np.float32(1), np.int64(3), np.bool_(True)],
        "arrays": [np.arange(5.0), np.array(["a", None], object), np.eye(2)[::2], np.dtype("f4")],
        "paths": [tmp_path, PurePosixPath("a"), PureWindowsPath("b")],
        "counts": defaultdict(int, {3: 4}),
        "more": [collections.Counter("ab"), {1, 2}, 1j, b"x", argparse.Namespace(path=tmp_path)],
    }
    torch.save({"model": weights, **beside}, tmp_path / "all.pth")
    found = read_checkpoint(tmp_path / "all.pth")
    assert type(found["model"]) is dict and torch.equal(found["model"]["a"], torch.ones(2))
    assert not vars(found["numbers"][0]) and not vars(found["arrays"][0])
    for key in ("numbers", "arrays", "paths"):
        with pytest.raises(InputError, match="all.pth: holds list at state"):
            weights_of(found, Layout("", state=key), "all.pth")
    torch.save({"model": {"a": np.eye(2)}}, tmp_path / "numpy.pth")
    with pytest.raises(InputError, match="'a' is of type NumPy array, not a tensor"):
        weights_of(read_checkpoint(tmp_path / "numpy.pth"), Layout("", state="model"), "numpy.pth")


@pytest.mark.parametrize("kind", NOT_BESIDE)
def test_what_else_lies_beside_the_weights_is_refused_by_name(tmp_path, kind):
    value, name = NOT_BESIDE[kind]
    torch.save({"model": {"a": torch.ones(1)}, "more": value}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=rf"a\.pth: holds Python objects \({name}\)"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("kind", ODD)
def test_a_tensor_that_is_no_plain_weight_is_named(tmp_path, kind):
    make, words = ODD[kind]
    torch.save({"fc.weight": make()}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=f"a.pth: 'fc.weight' is {words}; save plain dense tensors"):
        weights_of(read_checkpoint(tmp_path / "a.pth"), Layout(""), "a.pth")


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_is_no_name_is_named(tmp_path, key):
    torch.save({key: torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=f"a.pth: {re.escape(repr(key))} is no name of a weight"):
        weights_of(read_checkpoint(tmp_path / "a.pth"), Layout(""), "a.pth")


def test_a_bomb_is_not_unpacked(tmp_path):
    """torch stores the records of a file as they are; packed ones can grow a thousandfold."""
    torch.save({"a": torch.zeros(5_000_000)}, tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as file:
        records = {info.filename: file.read(info) for info in file.infolist()}
    with zipfile.ZipFile(tmp_path / "bad.pth", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in records.items():
            file.writestr(name, content)
    with pytest.raises(InputError, match=r"bad\.pth: not a checkpoint of torch .its records would take more"):
        read_checkpoint(tmp_path / "bad.pth")
    for zipped in (True, False):
        content = {"a": torch.ones(2), "b": torch.arange(600_000), "more": [0.5] * 2000}
        torch.save(content, tmp_path / "good.pth", _use_new_zipfile_serialization=zipped)
        assert torch.equal(read_checkpoint(tmp_path / "good.pth")["b"], content["b"])
        torch.save({"more": "x" * 4_200_000}, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(InputError, match=r"bad\.pth: .* .its pickle takes more than \d+ bytes; save"):
            read_checkpoint(tmp_path / "bad.pth")
    (tmp_path / "long.safetensors").write_bytes((2**24 + 1).to_bytes(8, "little"))
    with pytest.raises(InputError, match="not a complete safetensors file .a header of 16777217 bytes"):
        read_checkpoint(tmp_path / "long.safetensors")


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_any_byte_may_be_wrong(file, tmp_path, form):
    """Of 150 files with wrong bytes, each is read or named; nothing crashes."""
    state, rng = {"a": torch.arange(50.0), "b": torch.ones(3, 4)}, np.random.default_rng(0)
    path = tmp_path / f"a.{'safetensors' if form == 'safetensors' else 'pth'}"
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(
            {"state_dict": state, "n": np.float64(1)}, path, _use_new_zipfile_serialization=form == "zip"
        )
    good, layout = path.read_bytes(), Layout("", state="" if form == "safetensors" else "state_dict")
    for _ in range(150):
        bad = bytearray(good)
        for place in rng.integers(0, len(bad) if form == "zip" else min(len(bad), 600), rng.integers(1, 4)):
            bad[place] = rng.integers(256)
        path.write_bytes(bad)
        try:
            weights_of(read_checkpoint(path), layout, "a")
        except InputError as error:
            assert str(error).startswith((f"{path}: ", "a: ")) and str(error).isprintable()


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
