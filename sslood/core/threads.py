"""Thread limits for linear algebra."""

from contextlib import AbstractContextManager
from functools import cache

from threadpoolctl import ThreadpoolController, threadpool_limits

# Multiplying smaller matrices takes less time than waking a second thread: for the quickstart's 900 x 64
# features, one thread is three times as fast as two.
WORTH = 1_000_000


def blas_threads(numbers: int) -> threadpool_limits:
    """Context in which BLAS has one thread if the largest matrix holds less than WORTH `numbers`."""
    return threadpool_limits(1 if numbers < WORTH else None, user_api="blas")


def scipy_on_one_thread() -> AbstractContextManager:
    """Context in which the BLAS that scipy brings along has one thread, and numpy's keeps all.

    scipy's optimisers use theirs only for sums over the parameters, and its idle threads spin, keeping the
    cores from numpy's: a logistic regression then takes 1.7 to 2 times as long on two cores.
    """
    return _pools_of_scipy().limit(limits=1, user_api="blas")


@cache
def _pools_of_scipy() -> ThreadpoolController:
    import scipy.optimize  # noqa: F401  whose BLAS is there to be found once it is imported

    pools = ThreadpoolController()
    own = [pool["filepath"] for pool in pools.info() if "scipy.libs" in pool["filepath"]]
    return pools.select(filepath=own)
