"""Forked processes that share one piece of work, and that end whenever their parent or one of them does.

A process inherits what it needs, and writes large results into memory that it shares with its parent
(`shared`). It gets its jobs through a pipe of its own, whose other end is its parent's alone: so it ends when
the parent does, however that came about, and the parent learns at once that a process was killed.
"""

import mmap
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import TypeVar

import numpy as np

from sslood.core.errors import InputError

T = TypeVar("T")
CAN_FORK = sys.platform == "linux"
_AHEAD = 2  # jobs that a process has at a time, so that it never waits for its parent
_SIGNALS = {signal.SIGINT, signal.SIGTERM}


def shared(shape: tuple[int, ...]) -> np.ndarray:
    """Return a uint8 array of zeros that processes forked from now on share with this one."""
    size = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(-1, max(1, size)), np.uint8, size).reshape(shape)


@contextmanager
def forked(work: Callable[[int], T], count: int) -> Iterator[Iterator[tuple[int, T]]]:
    """Fork a process for each core; yield what gives (job, work(job)) of jobs 0..count-1 as they are done.

    An exception of `work` is raised here once the jobs before it are done: always the first one in order.
    Raises InputError if a process was killed. All processes have ended when the context is left.
    """
    context = multiprocessing.get_context("fork")
    pipes: list[Connection] = []
    processes = []
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until each process has its own answer
    try:
        try:
            for _ in range(min(count, len(os.sched_getaffinity(0)))):
                mine, its = context.Pipe()
                pipes.append(mine)
                process = context.Process(target=_serve, args=(its, [*pipes], work, masked), daemon=True)
                process.start()
                processes.append(process)
                its.close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        yield _results(pipes, count)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _results(pipes: list[Connection], count: int) -> Iterator[tuple[int, T]]:
    """Hand out the jobs and yield (job, result) as they come in."""
    jobs = iter(range(count))
    busy = dict.fromkeys(pipes, 0)
    failed: dict[int, Exception] = {}
    for pipe in pipes * _AHEAD:
        busy[pipe] += _give(pipe, jobs)
    while any(busy.values()):
        for pipe in wait([pipe for pipe, number in busy.items() if number]):
            try:
                job, result, error = pipe.recv()
            except (EOFError, ConnectionError):
                raise InputError(
                    "a process that converts pictures was killed (perhaps for want of memory); run it again"
                ) from None
            busy[pipe] -= 1
            if error is None:
                yield job, result
            else:
                failed[job], jobs = error, iter(())
            busy[pipe] += _give(pipe, jobs)
    if failed:
        raise failed[min(failed)]


def _give(pipe: Connection, jobs: Iterator[int]) -> int:
    """Send the next job, if there is one, and return how many were sent."""
    job = next(jobs, None)
    if job is None:
        return 0
    try:
        pipe.send(job)
    except ConnectionError:
        pass  # it was killed, which the next read will tell
    return 1


def _serve(pipe: Connection, others: list[Connection], work: Callable[[int], T], masked: set) -> None:
    """Do jobs until the parent closes the pipe or ends. Ctrl-C is left to the parent."""
    for other in others:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    try:
        while True:
            job = pipe.recv()
            try:
                reply = (job, work(job), None)
            except Exception as error:
                if not isinstance(error, InputError):
                    error.add_note(traceback.format_exc())
                reply = (job, None, error)
            pipe.send(reply)
    except (EOFError, ConnectionError):
        return
