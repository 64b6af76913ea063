"""Matlab files: the arrays of good ones, and one sentence for those that crash or fill the library."""

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from sslood.core.errors import InputError
from sslood.data.sets.matlab import read_matlab
from tests.trials.hostile import DIGITS, MATS


@pytest.mark.parametrize("kind", MATS)
def test_what_is_no_such_file_is_named(tmp_path, kind):
    make, words = MATS[kind]
    (tmp_path / "a.mat").write_bytes(make())
    with pytest.raises(InputError) as failure:
        read_matlab(tmp_path / "a.mat", "X", "y")
    said = str(failure.value)
    assert said.startswith(f"{tmp_path}/a.mat: not the set's Matlab file (") and words in said
    assert said.isprintable() and said.endswith("fetch it again") and len(said) < 400


@pytest.mark.parametrize(("compress", "form"), [(False, "5"), (True, "5"), (False, "4")])
def test_good_arrays_come_back_as_the_library_reads_them(tmp_path, monkeypatch, compress, form):
    arrays = {"y": np.arange(5.0)[:, None]} if form == "4" else DIGITS
    savemat(tmp_path / "a.mat", arrays, do_compression=compress, format=form)
    monkeypatch.chdir(tmp_path)
    found, expected = read_matlab(tmp_path / "a.mat", *arrays), loadmat(tmp_path / "a.mat")
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])
        assert array.dtype == expected[name].dtype
        assert array.flags.f_contiguous == expected[name].flags.f_contiguous
