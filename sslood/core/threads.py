"""Thread limits for linear algebra."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

# Multiplying smaller matrices takes less time than waking a second thread: for the quickstart's 900 x 64
# features, one thread is three times as fast as two.
WORTH = 1_000_000


@contextmanager
def blas_threads(numbers: int) -> Iterator[None]:
    """Context in which BLAS, and torch if it is imported, have one thread for matrices of few `numbers`.

    Few are less than WORTH in the largest matrix.
    """
    torch = sys.modules.get("torch") if numbers < WORTH else None
    threads = 0 if torch is None else torch.get_num_threads()
    with threadpool_limits(1 if numbers < WORTH else None, user_api="blas"):
        if torch is not None:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch is not None:
                torch.set_num_threads(threads)
