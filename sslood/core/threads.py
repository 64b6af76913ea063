"""Thread limits for linear algebra."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

from threadpoolctl import ThreadpoolController

# Multiplying smaller matrices takes less time than waking a second thread: for the quickstart's 900 x 64
# features, one thread is three times as fast as two.
WORTH = 1_000_000


def blas() -> ThreadpoolController:
    """The BLAS libraries of numpy and scipy; scipy's is loaded with its linear algebra."""
    return _loaded("scipy.linalg" in sys.modules)


@cache  # looking them up takes a millisecond
def _loaded(scipy: bool) -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


class _Limit:
    """One thread for BLAS, in the whole process: the first of several callers sets it, the last restores."""

    def __init__(self) -> None:
        self._lock, self._callers = Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            self._callers += 1
            if self._callers == 1:
                self._limit = blas().limit(limits=1)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._callers -= 1
            if not self._callers:
                self._limit.restore_original_limits()


_LIMIT = _Limit()


@contextmanager
def one_thread() -> Iterator[None]:
    """Context in which numpy's and scipy's BLAS, and torch if it is imported, have one thread each."""
    torch = sys.modules.get("torch")
    threads = 0 if torch is None else torch.get_num_threads()  # of this thread's work
    if torch is not None:
        torch.set_num_threads(1)
    try:
        with _LIMIT:
            yield
    finally:
        if torch is not None:
            torch.set_num_threads(threads)


@contextmanager
def blas_threads(numbers: int) -> Iterator[None]:
    """Context of `one_thread` for matrices of few `numbers`: less than WORTH in the largest of them."""
    if numbers >= WORTH:
        yield
        return
    with one_thread():
        yield
