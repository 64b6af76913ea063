"""Rows in pieces that fit the cache, one piece per core."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Lock

import torch
from threadpoolctl import ThreadpoolController

FEW = 4  # pieces that are not worth starting threads for
Compute = Callable[[slice], None]


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of numpy and scipy, looked up once: it takes a millisecond."""
    return ThreadpoolController().select(user_api="blas")


class _Limit:
    """One thread for BLAS, in the whole process: the first of several callers sets it, the last restores."""

    def __init__(self) -> None:
        self._lock, self._callers = Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            self._callers += 1
            if self._callers == 1:
                self._limit = _blas().limit(limits=1)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._callers -= 1
            if not self._callers:
                self._limit.restore_original_limits()


_LIMIT = _Limit()


@contextmanager
def one_thread() -> Iterator[None]:
    """Context in which numpy's and scipy's BLAS and torch have one thread each."""
    threads = torch.get_num_threads()  # of this thread's work
    torch.set_num_threads(1)
    try:
        with _LIMIT:
            yield
    finally:
        torch.set_num_threads(threads)


def pieces(count: int, size: int) -> list[slice]:
    """Return slices of at most `size` that cover `count` rows."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def in_pieces(compute: Compute, count: int, size: int) -> None:
    """Call compute(slice) for every `size` of `count` rows, on as many threads as BLAS has at the time.

    Libraries have one thread each meanwhile: a second one gains nothing on a few hundred rows, whereas pieces
    side by side also share everything between the products. The result for a piece does not depend on the
    number of threads. `compute` must write each piece to a place of its own.
    """
    slices = pieces(count, size)
    left = iter(slices)  # shared: whoever is done takes the next

    def work(_: int) -> None:
        for piece in left:
            compute(piece)

    workers = max((library.num_threads for library in _blas().lib_controllers), default=1)
    with one_thread():
        if workers == 1 or len(slices) < FEW:
            work(0)
            return
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(min(workers, len(slices)))))
