"""Thread limits for linear algebra."""

from threadpoolctl import threadpool_limits

# Multiplying smaller matrices takes less time than waking a second thread: for the quickstart's 900 x 64
# features, one thread is three times as fast as two.
WORTH = 1_000_000


def blas_threads(numbers: int) -> threadpool_limits:
    """Context in which BLAS has one thread if the largest matrix holds less than WORTH `numbers`."""
    return threadpool_limits(1 if numbers < WORTH else None, user_api="blas")
