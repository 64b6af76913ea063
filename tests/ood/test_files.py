"""Fitted detectors packed and unpacked, and what calibrates them."""

import numpy as np
import pytest

from stages.core.artefacts import load_tensors, save_tensors
from stages.core.errors import InputError
from stages.ood.files import KINDS, calibrate, pack, part_of, unpack
from stages.ood.thresholds import conformal_threshold
from tests.ood.test_head_detectors import TEST, TRAIN, VALIDATION


def calibrated(name, alpha=0.1, **settings):
    settings = {"k": 5} | settings if name == "knn" else settings
    kind = KINDS[name]
    return calibrate(name, kind.Settings(**settings), TRAIN, VALIDATION, alpha=alpha, seed=0, device="cpu")


@pytest.mark.parametrize("name", KINDS)
def test_a_file_gives_the_same_decisions(name, tmp_path):
    before = calibrated(name)
    arrays, content = pack(before)
    save_tensors(tmp_path / "d.safetensors", arrays, kind="detector", metadata=content)
    after = unpack(*load_tensors(tmp_path / "d.safetensors", kind="detector"), "d.safetensors")
    scores = after.detector.score(TEST)
    np.testing.assert_array_equal(scores, before.detector.score(TEST))
    assert after.threshold == before.threshold and after.name == name
    np.testing.assert_array_equal(after.p_values(scores) <= 0.1, after.is_ood(scores))
    assert before.is_ood(before.calibration).mean() <= 0.1


@pytest.mark.parametrize("name, held_out", [("knn", VALIDATION), ("kl_matching", None)])
def test_the_threshold_comes_from_images_that_were_not_fitted_on(name, held_out):
    found = calibrated(name)
    if held_out is None:
        held_out = part_of(VALIDATION, slice(1, None, 2))
        fitted = KINDS[name]().fit(TRAIN, part_of(VALIDATION, slice(0, None, 2)))
        np.testing.assert_array_equal(fitted.score(TEST), found.detector.score(TEST))
    assert found.threshold == conformal_threshold(found.detector.score(held_out), 0.1)


def test_refuses():
    with pytest.raises(InputError, match="needs at least 999 calibration images, there are 300"):
        calibrated("knn", alpha=0.001)
    with pytest.raises(InputError, match="unknown detector 'odinn'"):
        calibrate("odinn", None, TRAIN, VALIDATION, alpha=0.1, seed=0, device="cpu")
    with pytest.raises(InputError, match="x.safetensors: holds no detector"):
        unpack({}, {}, "x.safetensors")
    arrays, content = pack(calibrated("knn"))
    content["detector"]["settings"]["kk"] = 3
    with pytest.raises(InputError, match="x.safetensors: unknown key 'kk'"):
        unpack(arrays, content, "x.safetensors")
