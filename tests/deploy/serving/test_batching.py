"""Which images share a pass of the network, with a network that waits until it is told to go on."""

import asyncio
import threading

import numpy as np

from sslood.deploy.scorer import Decisions
from sslood.deploy.serving.batching import Batcher


def image(value):
    return np.full((1, 1, 2, 2), value, np.uint8)


def test_what_gathers_during_a_batch_is_the_next_one():
    """One job comes alone; nine images come while it is computed, and four fit into a batch."""
    sizes, begun, go_on = [], threading.Event(), threading.Event()

    def decide(images):
        sizes.append(len(images))
        begun.set()
        assert go_on.wait(10)
        values = images[:, 0, 0, 0].astype(float)
        return Decisions(values, values / 256, values > 4, [""] * len(values))

    async def run():
        batcher = Batcher(decide, most=4)
        batcher.start()
        first = asyncio.create_task(batcher.decide(image(0)))
        await asyncio.to_thread(begun.wait, 10)
        groups = [[1], [2, 3], [4, 5], [6], [7], [8, 9]]
        rest = [
            asyncio.create_task(batcher.decide(np.concatenate([image(value) for value in group])))
            for group in groups
        ]
        await asyncio.sleep(0)  # each task runs until it waits
        go_on.set()
        found = await asyncio.gather(first, *rest)
        await batcher.close()
        return [[0], *groups], found, batcher

    groups, found, batcher = asyncio.run(run())
    assert sizes == [1, 3, 4, 2]
    assert (batcher.batches, batcher.images) == (4, 10)
    for group, decisions in zip(groups, found, strict=True):
        np.testing.assert_array_equal(decisions.scores, group)
        np.testing.assert_array_equal(decisions.is_ood, np.array(group) > 4)
