"""Detector files that contradict themselves: none is opened, whoever sealed it."""

import copy

import numpy as np
import pytest

from sslood.core.errors import InputError
from sslood.core.files import load_tensors, save_tensors
from sslood.deploy.calibrated import KINDS, calibrate, make_detector
from sslood.deploy.packed import VERSION, checksum, pack, unpack
from sslood.deploy.scorer import load_deployed
from tests.deploy.test_calibrated import ALL, calibrated, numbers
from tests.trials.deploying import array_lies, read_file, word_lies, write_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    write_files(folder)
    return folder


@pytest.mark.parametrize("name, part", [("knn", 0), ("gmm", 1), ("gram", 2), ("two", 3)])
def test_no_lie_passes_though_its_checksum_is_right(folder, name, part, tmp_path):
    """A quarter of the lies for each of four files; `python -m tests.trials deploying` tells all."""
    arrays, content = read_file(folder, name)
    path, passed, total = tmp_path / "lie.safetensors", [], 0
    for what, lie in [*array_lies(arrays), *word_lies()][part::4]:
        lying, said = dict(arrays), copy.deepcopy(content)
        lie(lying, said)
        said["checksum"] = checksum(lying, said)
        save_tensors(path, lying, kind="detector", metadata=said)
        try:
            load_deployed(path)
            passed.append(what)
        except InputError as error:
            assert str(path) in str(error), what
        total += 1
    assert not passed and total > 25


@pytest.mark.parametrize("share", np.linspace(0, 1, 12, endpoint=False))
def test_no_flipped_bit_passes(folder, share, tmp_path):
    content = bytearray((folder / "knn.safetensors").read_bytes())
    content[int(share * len(content))] ^= 4
    (tmp_path / "d.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="d.safetensors"):
        load_deployed(tmp_path / "d.safetensors")


def test_a_file_that_was_changed_says_so(folder, tmp_path):
    arrays, content = read_file(folder, "knn")
    content["calibrated_on"] = "a million images"
    save_tensors(tmp_path / "d.safetensors", arrays, kind="detector", metadata=content)
    says = "d.safetensors: its content has not the checksum that was written with it; the file is damaged"
    with pytest.raises(InputError, match=says):
        load_deployed(tmp_path / "d.safetensors")


def test_the_fixed_images_tell_arrays_that_do_not_belong_together(folder, tmp_path):
    """Types, shapes and checksum are right, but the weights are those of another training."""
    arrays, content = read_file(folder, "gmm")
    arrays["detector.gmm.means"] = arrays["detector.gmm.means"][::-1] + 1
    content["checksum"] = checksum(arrays, content)
    save_tensors(tmp_path / "d.safetensors", arrays, kind="detector", metadata=content)
    with pytest.raises(InputError, match="it scores two fixed images .* were written; the file is damaged"):
        load_deployed(tmp_path / "d.safetensors")


@pytest.mark.parametrize("name", KINDS)
def test_every_detector_keeps_only_finite_floats(name):
    arrays, content = pack(calibrated(name))
    assert {array.dtype.name for array in arrays.values()} <= {"float32", "float64"}
    assert content["arrays"].keys() == arrays.keys() and content["version"] == VERSION
    unpack(arrays, content, "d.safetensors")


def test_state_that_is_not_finite_is_named():
    arrays, content = pack(calibrated("gmm"))
    for value in (np.nan, np.inf):
        arrays["detector.gmm.means"][0, 0] = value
        with pytest.raises(InputError, match="d.safetensors: array 'detector.gmm.means' has NaN or infinite"):
            unpack(arrays, content, "d.safetensors")


def test_scores_that_are_not_finite_calibrate_nothing(monkeypatch):
    for combination in (None, "simes"):
        names = ("msp", "energy")[: 1 if combination is None else 2]
        detectors = {name: make_detector(name, numbers(name), seed=0, device="cpu") for name in names}
        monkeypatch.setattr(detectors["msp"], "score", lambda outputs: np.full(len(outputs), np.inf))
        with pytest.raises(InputError, match="scores are infinite, so they decide nothing"):
            calibrate(detectors, ALL["train"], ALL["heldout"], alpha=0.1, combination=combination)


def test_reading_does_not_change_a_file(folder):
    before = (folder / "gmm.safetensors").read_bytes()
    load_deployed(folder / "gmm.safetensors")
    assert (folder / "gmm.safetensors").read_bytes() == before
    assert load_tensors(folder / "gmm.safetensors")[1]["version"] == VERSION


def test_words_of_a_file_do_not_reach_the_terminal_raw():
    arrays, content = pack(calibrated("msp"))
    content["catches"] = [{"name": "a\x1b[2Jb", "role": "near", "images": 9, "share": 0.1, "control": None}]
    content["unmeasured"] = "x\x1b[2J"
    found = unpack(arrays, content, "d.safetensors")
    said = " ".join([*found.warnings(), found.unmeasured, *map(str, found.catches)])
    assert "\x1b" not in said and "a%1B[2Jb" in said
