"""Images of many callers through one scorer, as many at a time as wait for it."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np

from sslood.deploy.scorer import Decisions


@dataclass(frozen=True)
class _Job:
    """Images uint8 [N, C, size, size] of one caller, and where it waits for the decisions."""

    images: np.ndarray
    answer: "asyncio.Future[Decisions]"


class Batcher:
    """Lets callers share passes of the network, which has a thread of its own and no two at a time.

    While a batch is computed, images gather; the next batch is all of them, up to `most`. So an image that
    comes alone never waits for company, and many at once are computed together. To use inside a running event
    loop: `start`, then `decide` as often as needed, then `close`.
    """

    def __init__(self, decide: Callable[[np.ndarray], Decisions], most: int):
        self.decide_all, self.most = decide, most
        self.batches = self.images = 0  # computed so far
        self._jobs: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "network")

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._work())

    @property
    def alive(self) -> bool:
        """Whether it works."""
        return not self._task.done()

    async def close(self) -> None:
        """Stop once the batch in work is done; who still waits is told that it was cancelled."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown()
        for job in self._jobs:
            job.answer.cancel()

    async def decide(self, images: np.ndarray) -> Decisions:
        """Return the decisions about uint8 images [N, C, size, size]; raises what the scorer raises."""
        job = _Job(images, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._arrived.set()
        return await job.answer

    async def alone(self, work: Callable[[], Decisions]) -> Decisions:
        """Return what a call returns that shares no batch; the thread makes it between two of them."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            jobs: list[_Job] = []
            count = 0
            while self._jobs and (not jobs or count + len(self._jobs[0].images) <= self.most):
                jobs.append(self._jobs.popleft())
                count += len(jobs[-1].images)
            if not self._jobs:
                self._arrived.clear()
            await self._answer([job for job in jobs if not job.answer.done()])

    async def _answer(self, jobs: Sequence[_Job]) -> None:
        """Decide about the images of some callers together; an error is that of the caller who causes it."""
        if not jobs:
            return
        images = np.concatenate([job.images for job in jobs])
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self.decide_all, images)
        except asyncio.CancelledError:
            for job in jobs:
                job.answer.cancel()
            raise
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    await self._answer([job])
            elif not jobs[0].answer.done():
                jobs[0].answer.set_exception(error)
            return
        self.batches, self.images = self.batches + 1, self.images + len(images)
        ends = np.cumsum([len(job.images) for job in jobs]).tolist()
        for job, end in zip(jobs, ends, strict=True):
            if not job.answer.done():  # its caller may be gone
                job.answer.set_result(part(found, slice(end - len(job.images), end)))


def part(decisions: Decisions, rows: slice) -> Decisions:
    """Return the decisions about some of the images."""
    return Decisions(**{field.name: getattr(decisions, field.name)[rows] for field in fields(decisions)})
