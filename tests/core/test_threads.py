import subprocess
import sys
from threading import Barrier, Thread

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from sslood.core.threads import WORTH, blas_threads, one_thread


def threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))  # BLAS is there
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.parametrize("limit", [one_thread, lambda: blas_threads(0)])
def test_callers_side_by_side_leave_blas_as_it_was(limit):
    """The second comes while the first works, and leaves after it."""
    before, barrier = threads(), Barrier(2)

    def first():
        with limit():
            barrier.wait()  # the second is in
            barrier.wait()

    def second():
        with limit():
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


def test_a_library_that_is_loaded_later_is_limited_too():
    """Scipy brings its own BLAS, after that of numpy was limited."""
    code = """
import numpy
from sslood.core.threads import blas, blas_threads
with blas_threads(0):
    pass
few = len(blas().lib_controllers)
import scipy.linalg
with blas_threads(0):
    assert {library.num_threads for library in blas().lib_controllers} == {1}
print(few, len(blas().lib_controllers))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert 1 <= before < after
