from threading import Barrier, Thread

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from sslood.core.threads import WORTH, blas_threads
from sslood.ood.kit.pieces import one_thread


def threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))  # BLAS is there
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_callers_side_by_side_leave_blas_as_it_was():
    """The second comes while the first works, and leaves after it."""
    before, barrier = threads(), Barrier(2)

    def first():
        with one_thread():
            barrier.wait()  # the second is in
            barrier.wait()

    def second():
        with one_thread():
            barrier.wait()
            barrier.wait()
            worker.join()

    with threadpool_limits(2, user_api="blas"):
        worker, other = Thread(target=first), Thread(target=second)
        worker.start()
        other.start()
        other.join()
        assert threads() == {2}
    assert threads() == before


@pytest.mark.parametrize(("numbers", "one"), [(0, True), (WORTH - 1, True), (WORTH, False)])
def test_small_problems_get_one_thread_of_blas_and_torch(numbers, one):
    before, torch_before = threads(), torch.get_num_threads()
    torch.set_num_threads(2)
    with blas_threads(numbers):
        assert threads() == ({1} if one else before)
        assert torch.get_num_threads() == (1 if one else 2)
    assert threads() == before and torch.get_num_threads() == 2
    torch.set_num_threads(torch_before)
