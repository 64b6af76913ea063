"""Rows in pieces that fit the cache, one piece per core."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sslood.core.threads import blas, one_thread

FEW = 4  # pieces that are not worth starting threads for
Compute = Callable[[slice], None]


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

    workers = max((library.num_threads for library in blas().lib_controllers), default=1)
    with one_thread():
        if workers == 1 or len(slices) < FEW:
            work(0)
            return
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(min(workers, len(slices)))))
