import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from sslood.core.threads import WORTH, blas_threads, scipy_on_one_thread


def threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))  # BLAS is there
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.parametrize(("numbers", "one"), [(0, True), (WORTH - 1, True), (WORTH, False)])
def test_small_problems_get_one_thread_of_blas(numbers, one):
    before = threads()
    with blas_threads(numbers):
        assert threads() == ({1} if one else before)
    assert threads() == before


def test_scipys_own_blas_is_held_to_one_thread_and_let_go_again():
    def pools():
        found = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        return {"scipy.libs" in pool["filepath"]: pool["num_threads"] for pool in found}

    scipy_on_one_thread()  # which imports scipy
    with threadpool_limits(2, user_api="blas"):
        with scipy_on_one_thread():
            assert pools() == {False: 2, True: 1}
        assert pools() == {False: 2, True: 2}
