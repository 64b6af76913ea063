"""What one worker of the engine does: it decodes pictures by the one chain, and judges them in batches.

A worker opens its detector (or model) once. Whatever becomes of a picture, it gives exactly one row: with
what is decided about it, or with the reason why it cannot be.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import IO, Any

import numpy as np
import pyarrow as pa
import torch

from sslood.core.batches import batches
from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.core.machine import machine
from sslood.core.names import original, path_cell, shown
from sslood.data.sets.bounds import TooMuch, check_file, pixel_limit
from sslood.data.sets.convert import Chain, converted
from sslood.data.sets.images import Remark
from sslood.data.sets.notices import warnings_kept
from sslood.deploy.engine.archives import Picture, members
from sslood.deploy.pictures import chain_of
from sslood.deploy.quick.quick import FEW, quick
from sslood.deploy.scorer import BATCH, Decisions, load_deployed
from sslood.nets.inference.extract import extract
from sslood.nets.inference.looks import as_fitted
from sslood.nets.networks.files import restore_model

SAID = {"reason": pa.string(), "remark": pa.string()}  # why there is no decision; what is odd about a picture
AHEAD = 2  # batches that are decoded before the network asks for them
Columns = dict[str, pa.Array]


@dataclass(frozen=True)
class Deciding:
    """Opens a detector file; its columns are those of `score`."""

    file: str
    columns = {"score": pa.float64(), "p_value": pa.float64(), "is_ood": pa.bool_()} | {
        "predicted_class": pa.string()
    }

    def open(self) -> tuple[Chain, Callable[[np.ndarray], Columns]]:
        """Return the chain of the pictures, and what gives the columns of uint8 images [N, C, H, W]."""
        scorer = load_deployed(self.file, machine().device)

        fast, pool = quick(scorer, FEW), ThreadPoolExecutor(torch.get_num_threads())

        def decided(images: np.ndarray) -> Decisions:
            if fast is None or len(images) < FEW:
                return scorer.decide(images)
            return fast.decide(images, np.stack([*pool.map(fast.look, images)]))

        def judge(images: np.ndarray) -> Columns:
            found = decided(images)
            values = (found.scores, found.p_values, found.is_ood, list(map(shown, found.predicted)))
            pairs = zip(self.columns.items(), values, strict=True)
            return {name: pa.array(value, kind) for (name, kind), value in pairs}

        return chain_of(scorer.metadata), judge


@dataclass(frozen=True)
class Embedding:
    """Opens a model file, or the network of a detector file; its columns are features and, if any, logits."""

    file: str

    @cached_property
    def read(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays and the metadata of the network."""
        arrays, metadata = load_tensors(self.file)
        if metadata.get("kind") == "detector":
            arrays = {k.removeprefix("model."): a for k, a in arrays.items() if k.startswith("model.")}
            metadata = metadata.get("model_metadata") or {}
        if "size" not in metadata:
            raise InputError(f"{self.file}: holds no network; name a model file or a detector file")
        return arrays, metadata

    @cached_property
    def columns(self) -> dict[str, pa.DataType]:
        """Name -> type of each column."""
        names = ("features", *(["logits"] if "head.weight" in self.read[0] else []))
        return {name: pa.list_(pa.float32()) for name in names}  # of fixed size none may be missing

    def open(self) -> tuple[Chain, Callable[[np.ndarray], Columns]]:
        """Return the chain of the pictures, and what gives the columns of uint8 images [N, C, H, W]."""
        arrays, metadata = self.read
        model = as_fitted(restore_model(arrays, metadata, self.file, machine().device), metadata)
        preprocessing = {"mean": metadata["mean"], "std": metadata["std"]}

        def judge(images: np.ndarray) -> Columns:
            found = extract(model, batches(images, BATCH), **preprocessing)
            return {name: _lists(found[name]) for name in self.columns}

        return chain_of(metadata), judge


def _lists(rows: np.ndarray) -> pa.ListArray:
    """Return rows [N, D] as a column."""
    ends = np.arange(0, rows.size + 1, rows.shape[1])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(rows.ravel()))


Opener = Deciding | Embedding


@dataclass
class Worker:
    """Decodes and judges. `opener` is opened as the worker is made; threads: that decode and compute.

    alone: whether this process is the worker's own, so that torch may be told its threads. Several of
    the engine's threads may share a worker: they decode side by side, and compute in turn.
    """

    opener: Opener
    threads: int
    alone: bool = True
    batch_size: int = BATCH
    fields: dict[str, pa.DataType] = field(init=False)

    def __post_init__(self) -> None:
        pixel_limit()
        if self.alone and "SSLOOD_THREADS" not in os.environ:
            torch.set_num_threads(self.threads)
        self.chain, self.judge = self.opener.open()
        self.fields = {**self.opener.columns, **SAID}
        self.pool, self.computing = ThreadPoolExecutor(self.threads), threading.Lock()

    def pictures(self, addresses: Sequence[str], contents: Sequence[bytes | None] | None) -> pa.StructArray:
        """Return a row for each picture: of a local path, as `path_cell` writes it, or of fetched bytes."""
        if contents is None:
            some = [Picture(original(address)) for address in addresses]
        else:
            some = [
                Picture(address, content, "" if content else "it is empty, or cannot be fetched")
                for address, content in zip(addresses, contents, strict=True)
            ]
        return pa.concat_arrays([self.nothing(), *self._judged(iter(some))])

    def nothing(self, *first: str) -> pa.StructArray:
        """Return no rows, with text columns `first` before the others."""
        kinds = {**dict.fromkeys(first, pa.string()), **self.fields}
        return pa.StructArray.from_arrays([pa.array([], kind) for kind in kinds.values()], list(kinds))

    def shard(self, file: IO[bytes], name: str) -> pa.StructArray:
        """Return a row for each picture of a tar archive, read once from front to end: `path` and the rest.

        What cannot be read to its end gives a row with its own name and the reason.
        """
        paths: list[str] = []

        def noted() -> Iterator[Picture]:
            for picture in members(file):
                paths.append(path_cell(f"{name}/{picture.name}" if picture.name else name))
                yield picture

        rows = pa.concat_arrays([self.nothing(), *self._judged(noted())])
        arrays = [pa.array(paths, pa.string()), *rows.flatten()]
        return pa.StructArray.from_arrays(arrays, ["path", *self.fields])

    def _judged(self, pictures: Iterator[Picture]) -> Iterator[pa.StructArray]:
        """Yield the rows of the pictures, batch by batch; the next ones are decoded meanwhile."""
        waiting: list[tuple[list[Picture], Any]] = []
        with warnings_kept:
            while batch := list(islice(pictures, self.batch_size)):
                waiting.append((batch, self.pool.map(self._load, batch)))
                if len(waiting) > AHEAD:
                    yield self._rows(*waiting.pop(0))
            for one in waiting:
                yield self._rows(*one)

    def _load(self, picture: Picture) -> tuple[np.ndarray | None, str, list[Remark]]:
        """Return (pixels, why there are none, remarks)."""
        remarks: list[Remark] = []
        if picture.reason:
            return None, picture.reason, remarks
        try:
            if picture.content is not None:
                check_file(len(picture.content))
            return converted(picture.name, self.chain, remarks, picture.content), "", remarks
        except TooMuch as error:
            return None, str(error), remarks
        except InputError as error:
            return None, str(error).removeprefix(f"{picture.name}: "), remarks

    def _rows(self, batch: list[Picture], loaded: Iterable[Any]) -> pa.StructArray:
        images, reasons, remarks = zip(*loaded, strict=True)
        good = [row for row, image in enumerate(images) if image is not None]
        places = {row: place for place, row in enumerate(good)}
        if good:
            with self.computing:  # detectors share buffers, and cores
                columns = self.judge(np.stack([images[row] for row in good]))
        else:
            columns = {name: pa.array([], kind) for name, kind in self.opener.columns.items()}
        index = pa.array([places.get(row) for row in range(len(batch))], pa.int64())
        texts = ["; ".join(f"{kind} ({more})" for kind, more in some) for some in remarks]
        said = [pa.array([shown(text) or None for text in some], pa.string()) for some in (reasons, texts)]
        arrays = [*(columns[name].take(index) for name in self.opener.columns), *said]
        return pa.StructArray.from_arrays(arrays, list(self.fields))
