"""Matlab files: the arrays of good ones, and one sentence for those that crash or fill the library."""

import io
import zlib

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from sslood.core.errors import InputError
from sslood.data.sets.matlab import read_matlab

X = np.random.default_rng(0).integers(0, 256, (4, 4, 3, 5), np.uint8)


def mat(*, compress: bool = False, form: str = "5", **arrays) -> bytes:
    out = io.BytesIO()
    savemat(out, arrays or {"X": X, "y": np.arange(5.0)[:, None]}, do_compression=compress, format=form)
    return out.getvalue()


def with_byte(place: int, value: int) -> bytes:
    content = bytearray(mat())
    content[place] = value
    return bytes(content)


def bomb() -> bytes:
    """Three gigabytes of zeros, packed by zlib into some kilobytes more than 3 MB."""
    size = 3 << 30
    flags = np.array([6, 8, 9, 0, 5, 8, 1, size, 1, 8], "<u4").tobytes() + b"X".ljust(8, b"\0")
    head = np.array([14, len(flags) + 8 + size], "<u8").astype("<u4").tobytes()
    packer = zlib.compressobj(9)
    packed = packer.compress(head + flags + np.array([2, size], "<u8").astype("<u4").tobytes())
    packed += b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    return mat()[:128] + np.array([15, len(packed)], "<u4").tobytes() + packed


BAD = {
    "crashes the library": (with_byte(128 + 57, 1), "reading it ends with signal 11"),
    "three gigabytes": (bomb(), ""),
    "cut short": (mat()[:300], ""),
    "damaged": (mat(compress=True)[:200] + bytes(50), ""),
    "another array": (mat(z=X), "KeyError: 'X'"),
    "objects": (mat(X=np.array([[1, "x"]], object), y=X), "X does not hold whole numbers"),
    "words": (mat(X=np.array(["abc"]), y=X), "X does not hold whole numbers"),
    "not a number": (mat(X=X, y=np.array([np.nan])), "y does not hold whole numbers"),
    "too large": (mat(X=X, y=np.array([1e300])), "y does not hold whole numbers"),
    "HDF5": (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400), "NotImplementedError"),
    "a page": (b"<html>\n\x1b[31mNot found</html>" * 9, ""),
    "empty": (b"", ""),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_such_file_is_named(tmp_path, kind):
    content, words = BAD[kind]
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(InputError) as failure:
        read_matlab(tmp_path / "a.mat", "X", "y")
    said = str(failure.value)
    assert said.startswith(f"{tmp_path}/a.mat: not the set's Matlab file (") and words in said
    assert said.isprintable() and said.endswith("fetch it again") and len(said) < 400


@pytest.mark.parametrize(("compress", "form"), [(False, "5"), (True, "5"), (False, "4")])
def test_good_arrays_come_back_as_the_library_reads_them(tmp_path, monkeypatch, compress, form):
    arrays = {"y": np.arange(5.0)[:, None]} if form == "4" else {"X": X, "y": np.arange(5)[:, None]}
    (tmp_path / "a.mat").write_bytes(mat(compress=compress, form=form, **arrays))
    monkeypatch.chdir(tmp_path)
    found, expected = read_matlab(tmp_path / "a.mat", *arrays), loadmat(tmp_path / "a.mat")
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])
        assert array.dtype == expected[name].dtype
        assert array.flags.f_contiguous == expected[name].flags.f_contiguous
