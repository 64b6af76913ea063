"""More pictures than memory should hold: the same set, from a file that leaves nothing behind."""

import errno
import os

import numpy as np
import pytest

from sslood.core.errors import InputError
from sslood.core.files import load_tensors, save_tensors
from sslood.data.sets import room as module
from sslood.data.sets.convert import convert


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "IN_MEMORY", 1000)
    return tmp_path / "cache"


def mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return array is not None


def test_a_large_set_is_converted_into_a_file_without_a_name(cache, tmp_path, monkeypatch):
    pictures = np.random.default_rng(0).integers(0, 256, (30, 20, 24, 3), np.uint8)
    large = convert(pictures, 16, 3, "x")
    assert mapped(large) and list(cache.iterdir()) == []
    save_tensors(tmp_path / "set.safetensors", {"images": large}, kind="set", metadata={})
    monkeypatch.setattr(module, "IN_MEMORY", 10**9)
    small = convert(pictures, 16, 3, "x")
    assert not mapped(small) and np.array_equal(large, small)
    assert np.array_equal(load_tensors(tmp_path / "set.safetensors")[0]["images"], small)


def test_a_disk_without_room_is_named_before_anything_is_converted(cache, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=f"{cache}: cannot be written .the disk is full.*SSLOOD_DATA_CACHE"):
        convert(np.zeros((30, 20, 24, 3), np.uint8), 16, 3, "x")
