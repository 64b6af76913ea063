"""Many pictures at once: threads, processes and single pictures all give the same rows."""

import os
import signal

import numpy as np
import pytest
from PIL import Image

from sslood.core.errors import InputError
from sslood.data.sets import convert as module
from sslood.data.sets.convert import Chain, convert, converted
from sslood.data.sets.images import read_image, to_array

RNG = np.random.default_rng(0)


@pytest.fixture
def forking(monkeypatch):
    """Processes from the first file on."""
    monkeypatch.setattr(module, "_MANY", 1)


def test_many_files_keep_their_order(tmp_path):
    paths = []
    for value in range(200):
        paths.append(tmp_path / f"{value:03}.png")
        Image.new("L", (10, 10), value).save(paths[-1])
    assert convert(paths, 8, 1, "x")[:, 0, 4, 4].tolist() == list(range(200))


def test_processes_give_what_threads_give(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number:03}.png" for number in range(150)]
    for number, path in enumerate(paths):
        Image.fromarray(RNG.integers(0, 256, (20 + number % 7, 24, 3), np.uint8)).save(path)
    threads = convert(paths, 16, 3, "x")
    monkeypatch.setattr(module, "_MANY", 100)
    assert np.array_equal(convert(paths, 16, 3, "x"), threads)
    paths[77].write_bytes(b"")
    with pytest.raises(InputError, match="077.png"):
        convert(paths, 16, 3, "x")
    skipped: list[int] = []
    assert np.array_equal(convert(paths, 16, 3, "x", skipped), np.delete(threads, 77, 0))
    assert skipped == [77]


def test_the_first_unreadable_picture_is_named_each_time(tmp_path, forking):
    """Whichever process is the quickest."""
    paths = [tmp_path / f"{number:04}.jpg" for number in range(400)]
    for path, side in zip(paths[:2], (500, 8), strict=True):
        Image.new("RGB", (side, side)).save(path)
    for number in range(2, 400):
        paths[number].symlink_to(paths[0 if number < 119 else 1])
    for number in (119, 300, 399):
        paths[number].unlink()
    for _ in range(2):
        with pytest.raises(InputError, match="0119.jpg"):
            convert(paths, 8, 3, "x")


def test_a_killed_process_is_one_sentence(tmp_path, forking, monkeypatch):
    """As where memory runs out: nothing hangs, and nothing half done is returned."""
    paths = [tmp_path / f"{number}.png" for number in range(400)]
    for path in paths:
        Image.new("L", (8, 8)).save(path)
    parent = os.getpid()

    def killed(path):
        assert os.getpid() != parent
        if path == paths[200]:
            os.kill(os.getpid(), signal.SIGKILL)
        return path.read_bytes()

    monkeypatch.setattr(module, "read_bytes", killed)
    with pytest.raises(InputError, match="a process .* was killed"):
        convert(paths, 8, 3, "x")


def test_pictures_of_many_shapes_stay_in_order(tmp_path, forking):
    """More than one block, of which some are cut short."""
    paths, expected = [], []
    for number in range(300):
        side = (16, 16, 16, 40, 16, 23)[number % 6]
        array = RNG.integers(0, 256, (side, side, 3), np.uint8)
        paths.append(tmp_path / f"{number:03}.jpg")
        Image.fromarray(array).save(paths[-1], quality=95)
        if number % 50 == 9:
            paths[-1].write_bytes(paths[-1].read_bytes()[:300])
        else:
            expected.append(to_array(read_image(paths[-1]), 8, 3))
    skipped: list[int] = []
    assert np.array_equal(convert(paths, 8, 3, "x", skipped), expected)
    assert skipped == list(range(9, 300, 50))


@pytest.mark.parametrize("side", [16, 17, 32])
def test_arrays_pass_the_chain_one_by_one(side):
    images = RNG.integers(0, 256, (300, side, side, 3), np.uint8)
    for channels in (1, 3):
        expected = [to_array(Image.fromarray(image), 16, channels) for image in images]
        assert np.array_equal(convert(images, 16, channels, "x"), expected)


def test_a_memory_map_is_read_block_by_block(tmp_path):
    images = RNG.integers(0, 256, (600, 12, 12, 3), np.uint8)
    np.save(tmp_path / "x.npy", images)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.array_equal(convert(mapped, 8, 3, "x"), convert(images, 8, 3, "x"))


def test_none_at_all():
    assert convert([], 8, 3, "x").shape == (0, 3, 8, 8)


def test_the_bytes_of_a_file_give_what_the_file_gives(tmp_path, monkeypatch):
    picture, chain = Image.fromarray(RNG.integers(0, 256, (20, 40, 3), np.uint8)), Chain(16, 3)
    for kind in ("png", "jpg", "webp"):
        path = tmp_path / f"a.{kind}"
        picture.save(path)
        remarks: list[list] = [[], []]
        expected = converted(path, chain, remarks[0])
        found = converted("b", chain, remarks[1], path.read_bytes())
        assert np.array_equal(found, expected) and remarks[0] == remarks[1] and remarks[0]
    for content, said in [
        (b"", "picture 3: cannot be read"),
        (bytes(4_000_001), "picture 3: has 4 MB, more"),
    ]:
        monkeypatch.setenv("SSLOOD_MEGAPIXELS", "1")
        with pytest.raises(InputError, match=said):
            converted("picture 3", chain, [], content)
