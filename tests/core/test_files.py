"""Files between stages: whole or not at all, stable bytes, readable by the safetensors library."""

import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sslood.core.errors import InputError
from sslood.core.files import atomic, load_json, load_tensors, read_metadata, save_json, save_tensors
from tests.trials.hostile import LIES, safetensors, wrong_bytes

TENSORS = {
    "images": np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2),
    "labels": np.array([3, 1], np.int64),
    "scale": np.float32(0.5),
    "nothing": np.empty((0, 4), np.float64),
    "odd": np.arange(3, dtype=np.uint8),
}


def test_the_safetensors_library_reads_what_we_write(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, TENSORS, kind="set", metadata={"name": "x"})
    for name, array in load_file(path).items():
        np.testing.assert_array_equal(array, TENSORS[name])
        assert array.dtype == np.asarray(TENSORS[name]).dtype


def test_we_read_what_the_safetensors_library_writes(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": np.eye(3)}, path)
    np.testing.assert_array_equal(load_tensors(path)[0]["x"], np.eye(3))


def test_round_trip_is_aligned_writable_and_leaves_the_file_alone(tmp_path):
    path = tmp_path / "deep" / "a.safetensors"
    save_tensors(path, TENSORS, kind="set", metadata={"name": "é", "n": [1, 2]})
    before = path.read_bytes()
    tensors, metadata = load_tensors(path, kind="set")
    assert metadata == {"kind": "set", "format": 1, "name": "é", "n": [1, 2]}
    assert all(array.flags.aligned for array in tensors.values())
    tensors["images"][:] = 0  # a private copy
    assert path.read_bytes() == before
    assert read_metadata(path, kind="set") == metadata


def test_bytes_depend_on_content_alone(tmp_path):
    save_tensors(tmp_path / "a", TENSORS, kind="set", metadata={"a": 1, "b": 2})
    reverse = dict(reversed(TENSORS.items()))
    save_tensors(tmp_path / "b", reverse, kind="set", metadata={"b": 2, "a": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_non_contiguous_arrays_are_written_as_they_look(tmp_path):
    array = np.arange(12.0).reshape(3, 4).T
    save_tensors(tmp_path / "a", {"x": array}, kind="set", metadata={})
    np.testing.assert_array_equal(load_tensors(tmp_path / "a")[0]["x"], array)


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -1])
def test_a_file_cut_short_is_named(tmp_path, keep):
    path = tmp_path / "a.safetensors"
    save_tensors(path, TENSORS, kind="set", metadata={})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"a\.safetensors: not a complete safetensors file"):
        load_tensors(path)


@pytest.mark.parametrize(
    "header", [b"[1]", b"{}}", b'{"x": 3}', b'{"x": {"data_offsets": "ab"}}', b"\xff\xfe"]
)
def test_a_damaged_header_is_named(tmp_path, header):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(InputError, match="not a complete safetensors file"):
        load_tensors(path)


@pytest.mark.parametrize("lie", LIES)
def test_offsets_shapes_dtypes_and_length_must_agree(tmp_path, lie):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors(LIES[lie]))
    with pytest.raises(InputError) as failure:
        load_tensors(path)
    said = str(failure.value)
    assert said.startswith(f"{path}: ") and said.isprintable() and len(said) < 400


@pytest.mark.parametrize("length", [0, 1, 2**24 + 1, 10**8, 2**63, 2**64 - 1])
def test_a_header_without_an_end_is_not_read(tmp_path, length):
    """The file is as long as its header claims, where a disk can hold that: it is sparse."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{" + b" " * 100)
    if length <= 10**8:
        os.truncate(path, 8 + length)
    with pytest.raises(InputError, match=r"a\.safetensors: not a complete safetensors file"):
        read_metadata(path)


def test_any_byte_may_be_wrong(tmp_path):
    """Of 400 files with wrong bytes, none is read past its end or fails with anything but a sentence."""
    path = tmp_path / "a.safetensors"
    save_tensors(path, TENSORS, kind="set", metadata={"name": "x", "splits": {"test": 2}})
    good = path.read_bytes()
    length = 8 + struct.unpack("<Q", good[:8])[0]
    read = 0
    for seed in range(400):
        path.write_bytes(wrong_bytes(good, seed, length))
        try:
            tensors, _ = load_tensors(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ") and str(error).isprintable()
        else:
            read += 1
            assert sum(array.nbytes for array in tensors.values()) == len(good) - length
    assert read < 200


def test_a_header_that_no_reader_would_take_is_not_written(tmp_path):
    with pytest.raises(InputError, match=r"names and metadata take 17\d+ bytes"):
        save_tensors(tmp_path / "a", {}, kind="set", metadata={"x": "y" * 17_000_000})
    assert not list(tmp_path.iterdir())


def test_empty_arrays_keep_their_place(tmp_path):
    arrays = {name: np.empty((0, 3), kind) for name, kind in zip("cab", ("<f8", "u1", "<f4"), strict=True)}
    save_tensors(tmp_path / "a", arrays | {"d": np.arange(2.0)}, kind="set", metadata={})
    found, _ = load_tensors(tmp_path / "a")
    assert list(found) == ["c", "d", "b", "a"] and found["b"].dtype == np.float32


def test_a_wrong_kind_a_newer_format_and_missing_things_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": np.eye(2)}, kind="set", metadata={})
    with pytest.raises(InputError, match="expected a file of kind 'model', found 'set'"):
        load_tensors(path, kind="model")
    with pytest.raises(InputError, match="no tensor 'y'; it holds x"):
        load_tensors(path, only=["y"])
    with pytest.raises(InputError, match="no such file"):
        load_tensors(tmp_path / "b")
    save_tensors(path, {}, kind="set", metadata={"format": 2})
    with pytest.raises(InputError, match="written by a newer version"):
        load_tensors(path)


def test_a_foreign_file_is_named(tmp_path):
    save_file({"x": np.eye(3)}, tmp_path / "a")
    with pytest.raises(InputError, match="file of another program"):
        load_tensors(tmp_path / "a", kind="model")


def test_a_dtype_that_a_file_cannot_hold_is_named(tmp_path):
    with pytest.raises(InputError, match="'x' has dtype complex128"):
        save_tensors(tmp_path / "a", {"x": np.zeros(1, complex)}, kind="set", metadata={})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_disk_without_room_is_one_sentence_that_names_the_file(tmp_path, root):
    """The kernel refuses to write more than 64 kB to a file, as it does on a full disk."""
    script = """
import resource, sys, click, numpy as np
from sslood.core.files import save_tensors
from sslood.cli.command import StageCommand
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
@click.command(cls=StageCommand)
@click.argument("out")
def stage(out):
    save_tensors(out, {"x": np.zeros(100_000)}, kind="set", metadata={})
stage()
"""
    command = [sys.executable, "-c", script, str(tmp_path / "a.safetensors")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and not list(tmp_path.iterdir())
    assert done.stderr.startswith(f"Error: {tmp_path}/a.safetensors: the file grew beyond the limit")
    assert done.stderr.count("\n") == 1


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path):
    """After kill -9 nobody cleans up; a file that another process is writing right now stays."""
    code = """
import os, signal, sys
from sslood.core.files import atomic
with atomic(sys.argv[1]) as path:
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    out = tmp_path / "a.json"
    done = subprocess.run([sys.executable, "-c", code, str(out)])
    assert done.returncode == -9
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    other = tmp_path / "b.json"
    with atomic(out) as first:
        save_json(out, {"whole": True})  # this process is alive: its own first try is left alone
        assert first.exists()
    save_json(other, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        save_json(tmp_path / "a.json", {})
    finally:
        os.umask(old)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_json_refuses_nan_and_names_broken_files(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_json(tmp_path / "a.json", {"x": float("nan")})
    save_json(tmp_path / "a.json", {"x": [1, 2.5]})
    assert load_json(tmp_path / "a.json") == json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 2.5]}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.json: not valid JSON"):
        load_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="no such file"):
        load_json(tmp_path / "b.json")
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"a\.json: not valid JSON .maximum recursion"):
        load_json(tmp_path / "a.json")
    os.truncate(tmp_path / "a.json", 2**25 + 1)
    with pytest.raises(InputError, match=r"a\.json: not valid JSON .more than 33554432 bytes"):
        load_json(tmp_path / "a.json")
