"""Processes that share the conversion of many files; none outlives the process that started it."""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TypeVar

from sslood.core.errors import InputError

AHEAD = 16  # jobs per process that are submitted before their results are taken
Job = TypeVar("Job")
Result = TypeVar("Result")


@contextmanager
def processes(work: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Iterator[Result]]:
    """Yield the results of `work`, in the order of `jobs`, done by a process for each core.

    `work` must be picklable. An exception of it is raised here, always the first in order. Raises InputError
    if a process was killed. All processes have ended when the context is left, however that comes about.
    """
    # forking costs nothing and is safe on Linux, where a set is made before anything else starts a thread
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    count = min(len(jobs), _cores()) or 1
    pool = ProcessPoolExecutor(count, context, _prepare)
    try:
        with warnings.catch_warnings():  # Python 3.12 on: idle threads of BLAS, which no child uses
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            ahead = deque(pool.submit(work, job) for job in jobs[: count * AHEAD])  # forks all processes
        yield _results(pool, work, ahead, jobs[count * AHEAD :])
    except BrokenProcessPool:
        raise InputError(
            "a process that converts pictures was killed (perhaps for lack of memory); run it again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _results(
    pool: ProcessPoolExecutor,
    work: Callable[[Job], Result],
    ahead: deque[Future[Result]],
    rest: Sequence[Job],
) -> Iterator[Result]:
    """Yield the results of the submitted jobs `ahead` and of the `rest`, which are submitted a few at a time.

    A pool that is given a hundred thousand jobs at once can deadlock as it is interrupted.
    """
    for job in rest:
        yield ahead.popleft().result()
        ahead.append(pool.submit(work, job))
    while ahead:
        yield ahead.popleft().result()


def _prepare() -> None:
    """Leave Ctrl-C to the parent, and end with it: a pool's processes would else wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
