"""Rows in pieces that fit the cache, one piece a core."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from threadpoolctl import ThreadpoolController

FEW = 4  # pieces that are not worth starting threads for
Compute = Callable[[slice], None]


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of numpy and scipy, looked up once: it takes a millisecond."""
    return ThreadpoolController().select(user_api="blas")


def one_thread():
    """Context of preparations for `in_pieces`: a BLAS thread that was woken spins on for 50 ms in its way."""
    return _blas().limit(limits=1)


def in_pieces(make: Callable[[], Compute], count: int, size: int) -> None:
    """Call compute(slice) for every `size` of `count` rows, on as many threads as BLAS has at the time.

    make() gives each thread a `compute` with buffers of its own: fresh memory for every piece would cost as
    much as its products. BLAS itself has one thread meanwhile: it gains nothing from a second one on a few
    hundred rows, whereas pieces side by side also share out everything between the products. What is computed
    for a piece does not depend on the number of threads. Each piece must be written to a place of its own.
    """
    pieces = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    left = iter(pieces)  # shared: who is done takes the next

    def work(_: int) -> None:
        compute = make()
        for piece in left:
            compute(piece)

    workers = max((library.num_threads for library in _blas().lib_controllers), default=1)
    if workers == 1 or len(pieces) < FEW:
        work(0)
        return
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(min(workers, len(pieces)))))
