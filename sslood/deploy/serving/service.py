"""What stands behind the addresses: requests in, decisions of the scorer out, and what the scorer is."""

import asyncio
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
from starlette.requests import Request

from sslood.core.errors import InputError
from sslood.data.sets.bounds import pixel_limit
from sslood.data.sets.convert import Chain, converted_bytes
from sslood.data.sets.images import Remark
from sslood.deploy.pictures import chain_of
from sslood.deploy.scorer import Deployed, describe_rule
from sslood.deploy.serving.answers import Answer, Judge, Options, rows
from sslood.deploy.serving.batching import Batcher
from sslood.deploy.serving.limits import Gate, Limits, Refused
from sslood.deploy.serving.uploads import Upload, read_uploads

Read = tuple[np.ndarray | str, list[Remark]]  # a picture or why it cannot be read; what is to be said of it
NAMED = 5  # pictures that an error names, at most


class Service:
    """Reads requests, decodes their pictures in threads, and lets the scorer decide about them in batches."""

    def __init__(self, scorer: Deployed, limits: Limits, batch_size: int):
        self.scorer, self.limits, self.gate = scorer, limits, Gate(limits)
        self.batcher = Batcher(scorer.decide, batch_size)
        self.chain = chain_of(scorer.metadata)
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
        """Return the decisions about the pictures of a request.

        Raises Refused as `read_uploads`, and with 422 for pictures that cannot be read unless they are to be
        skipped; InputError for a rate that the calibration does not allow.
        """
        judge, decided = Judge(self.scorer, options), None
        with self.gate.enter() as take:
            uploads = await read_uploads(request, self.limits, take)
            loop = asyncio.get_running_loop()
            work = [loop.run_in_executor(self.decoders, read, upload, self.chain) for upload in uploads]
            found = await asyncio.gather(*work)
            images = [image for image, _ in found if not isinstance(image, str)]
            if len(images) < len(found) and not options.skip_unreadable:
                raise _unreadable(uploads, found)
            if images:
                decided = judge(await self.batcher.decide(np.stack(images)))
        return judge.answer(rows(uploads, found, decided))


def read(upload: Upload, chain: Chain) -> Read:
    """Return the picture of an upload as all pictures are converted, or why it cannot be read."""
    remarks: list[Remark] = []
    try:  # not by its name, which may look like one of ours
        return converted_bytes(upload.content, "picture", chain, remarks), remarks
    except InputError as error:
        return str(error).removeprefix("picture: "), []


def _unreadable(uploads: list[Upload], found: list[Read]) -> Refused:
    bad = [
        f"{one.name} {text}" for one, (text, _) in zip(uploads, found, strict=True) if isinstance(text, str)
    ]
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return Refused(
        422,
        f"{len(bad)} of {len(uploads)} pictures cannot be read: {'; '.join(bad[:NAMED])}{more}; "
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
        "pictures": f"any size; {metadata['resize']}",
        "catches": [asdict(catch) for catch in calibrated.catches],
        "warnings": calibrated.warnings(),
        "about": describe_rule(scorer),
        "limits": {**asdict(limits), "megapixels": pixel_limit() / 1e6},
    }
