import numpy as np
import pytest
import torch

from sslood.core.rows import unit_rows


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_rows_have_length_one_and_a_row_of_zeros_stays(kind):
    rows = kind([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(np.asarray(unit_rows(rows)), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-7)


def test_directions_of_arrays_and_tensors_agree():
    rows = np.random.default_rng(0).normal(size=(5, 3, 7))
    np.testing.assert_allclose(unit_rows(rows), unit_rows(torch.from_numpy(rows)).numpy(), rtol=1e-15)
