import numpy as np
import pytest
from threadpoolctl import threadpool_info

from sslood.core.threads import WORTH, blas_threads


def threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))  # BLAS is there
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.parametrize(("numbers", "one"), [(0, True), (WORTH - 1, True), (WORTH, False)])
def test_small_problems_get_one_thread_of_blas(numbers, one):
    before = threads()
    with blas_threads(numbers):
        assert threads() == ({1} if one else before)
    assert threads() == before
