"""What stands behind the addresses: requests in, decisions of the scorer out, and what the scorer is."""

import asyncio
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from starlette.requests import Request

from sslood.core.errors import InputError
from sslood.data.sets.bounds import pixel_limit
from sslood.data.sets.convert import Chain, converted
from sslood.data.sets.images import Remark
from sslood.deploy.pictures import chain_of
from sslood.deploy.scorer import Decisions, Deployed, describe_rule
from sslood.deploy.serving.answers import Answer, Judge, Options, rows
from sslood.deploy.serving.batching import Batcher
from sslood.deploy.serving.given import Upload, Vectors
from sslood.deploy.serving.limits import Gate, Limits, Refused
from sslood.deploy.serving.uploads import read_uploads

Read = tuple[
    np.ndarray | str, list[Remark]
]  # a picture or vector, or why it is none; what is to be said of it
NAMED = 5  # pictures that an error names, at most


class Service:
    """Reads requests, decodes their pictures in threads, and lets the scorer decide about them in batches."""

    def __init__(self, scorer: Deployed, limits: Limits, batch_size: int):
        self.scorer, self.limits, self.gate = scorer, limits, Gate(limits)
        self.batcher = Batcher(scorer.decide, batch_size)
        self.chain = chain_of(scorer.metadata)
        self.width = scorer.metadata["feature_dim"] + len(scorer.metadata["head_classes"] or [])
        self.decoders = ThreadPoolExecutor(os.cpu_count() or 1, "decoder")

    async def close(self) -> None:
        """End the threads."""
        await self.batcher.close()
        self.decoders.shutdown()

    def health(self) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status, 200 while it works, and what was done so far."""
        works = self.batcher.alive
        counts = {
            "images": self.batcher.images,
            "batches": self.batcher.batches,
            "requests": self.gate.requests,
        }
        return 200 if works else 503, {"status": "ok" if works else "the network has stopped", **counts}

    async def answer(self, request: Request, options: Options) -> Answer:
        """Return the decisions about the pictures or vectors of a request.

        Raises Refused as `read_uploads`, and with 422 for pictures that cannot be read or vectors that are
        not finite unless they are to be skipped; InputError for a rate that the calibration does not allow,
        and for what the detector does not take.
        """
        judge, decided = Judge(self.scorer, options), None
        with self.gate.enter() as take:
            given = await read_uploads(request, self.limits, take, self.width)
            if isinstance(given, Vectors):
                names, found = given.names, _finite(given)
            else:
                names, found = [one.name for one in given], await self._decoded(given)
            good = [not isinstance(image, str) for image, _ in found]
            if not all(good) and not options.skip_unreadable:
                raise _unreadable(names, found, "vectors" if isinstance(given, Vectors) else "pictures")
            if any(good):
                decided = judge(await self._decided(given, found, np.array(good)))
        return judge.answer(rows(names, found, decided))

    async def _decoded(self, uploads: list[Upload]) -> list[Read]:
        self.scorer.network  # noqa: B018 - refuses pictures for a detector of vectors
        loop = asyncio.get_running_loop()
        work = [loop.run_in_executor(self.decoders, read, upload, self.chain) for upload in uploads]
        return await asyncio.gather(*work)

    async def _decided(self, given: list[Upload] | Vectors, found: list[Read], good: np.ndarray) -> Decisions:
        if not isinstance(given, Vectors):
            return await self.batcher.decide(
                np.stack([image for image, _ in found if not isinstance(image, str)])
            )
        logits = None if given.logits is None else given.logits[good]
        return await self.batcher.alone(partial(self.scorer.decide_vectors, given.vectors[good], logits))


def read(upload: Upload, chain: Chain) -> Read:
    """Return the picture of an upload as all pictures are converted, or why it cannot be read."""
    remarks: list[Remark] = []
    try:  # not by its name, which may look like one of ours
        return converted("picture", chain, remarks, upload.content), remarks
    except InputError as error:
        return str(error).removeprefix("picture: "), []


def _finite(given: Vectors) -> list[Read]:
    """Return each vector, or that it is not finite."""
    parts = [part for part in (given.vectors, given.logits) if part is not None]
    good = np.all([np.isfinite(part).all(1) for part in parts], axis=0)
    reason = "has NaN or infinite values; look at the model that gave it"
    return [(row if fine else reason, []) for row, fine in zip(given.vectors, good, strict=True)]


def _unreadable(names: list[str], found: list[Read], what: str) -> Refused:
    bad = [f"{name} {text}" for name, (text, _) in zip(names, found, strict=True) if isinstance(text, str)]
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return Refused(
        422,
        f"no decision is possible for {len(bad)} of {len(names)} {what}: {'; '.join(bad[:NAMED])}{more}; "
        "?skip_unreadable=true decides about the others",
    )


def description(scorer: Deployed, checksum: str, limits: Limits) -> dict[str, Any]:
    """Return what a client may want to know of the detector, as JSON values."""
    metadata: Mapping[str, Any] = scorer.metadata
    calibrated, head = scorer.calibrated, metadata["head_classes"]
    threshold = calibrated.threshold
    return {
        "detector": calibrated.name,
        "checksum": checksum,
        "model": metadata["name"],
        "id": metadata["id"],
        "classes": None if head is None else [str(metadata["classes"][place]) for place in head],
        "alpha": threshold.alpha,
        "threshold": threshold.value if calibrated.by_class is None else calibrated.by_class.values,
        "calibration_images": threshold.images,
        "smallest_p_value": 1 / (calibrated.fewest + 1),
        "takes": f"vectors of {metadata['feature_dim']} numbers"
        if scorer.model is None
        else f"pictures of any size ({metadata['resize']}), or vectors of {metadata['feature_dim']} numbers",
        "catches": [asdict(catch) for catch in calibrated.catches],
        "warnings": calibrated.warnings(),
        "about": describe_rule(scorer),
        "limits": {**asdict(limits), "megapixels": pixel_limit() / 1e6},
    }
