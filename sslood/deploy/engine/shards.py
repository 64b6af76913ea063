"""A detector fitted to more vectors than a machine holds: each file on its own, then the sums merged.

The files are those of `bulk --model`, or others with a column of vectors. Which rows calibrate is decided by
their path alone, so that it does not matter how the rows are spread over files, or files over workers.
"""

import hashlib
import pickle
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sslood.core.errors import InputError, as_line, known
from sslood.core.settings import autos
from sslood.deploy.calibrated import DETECTORS, Calibrated, Origin
from sslood.deploy.engine.daft import engine, read_parquet, said_once
from sslood.deploy.engine.sources import matching
from sslood.ood.geometry.covariance import Moments
from sslood.ood.kit.fitting import Streaming
from sslood.ood.kit.network_detector import Progress
from sslood.ood.kit.outputs import PARTS, Head, Outputs
from sslood.ood.measures.conformal import conformal_threshold, finite_scores, images_needed

SHARE = 0.2  # of the rows calibrate, but at most
CALIBRATION = 10_000  # of them: the share of ID called OOD is then within 0.2 % of 5 %
BATCH = 8192  # rows of a file in memory
SMOOTH = 1e-3  # a ridge from which a covariance of fewer vectors than dimensions is meant to be smoothed
_STEPS = 2**64


@dataclass(frozen=True)
class Vectors:
    """Files of vectors, and the columns to read: `label`, if it is given, holds the class of each row.

    classes: names of all classes, sorted; () without labels. head: of the model, for detectors that read it.
    """

    files: Sequence[str]
    io: Any = None
    label: str | None = None
    classes: tuple[str, ...] = ()
    head: Head | None = None
    rows: int = 0

    @property
    def share(self) -> float:
        """The share of the rows that calibrate."""
        return min(SHARE, CALIBRATION / max(self.rows, 1))


def open_vectors(pattern: str, label: str | None, head: Head | None, io: Any) -> Vectors:
    """Return the files that a folder, an address or a pattern names, with the classes that they hold.

    Raises InputError if there are none, or if they lack a column that is read; it lists those there are. So
    it does for labels that are fractions.
    """
    wanted = pattern if pattern.endswith(".parquet") else f"{pattern.rstrip('/')}/*.parquet"
    files = matching(wanted, io)
    with said_once(pattern):
        frame = read_parquet(files, io)
        for name in ("path", "features", *([label] if label else [])):
            if name not in frame.column_names:
                raise InputError(
                    f"{pattern}: has no column {name!r}; its columns are {', '.join(frame.column_names)}"
                )
        col, classes = engine().col, []
        kept = frame.where(~col("features").is_null())
        rows = kept.count_rows()
        if label:
            if lacking := kept.where(col(label).is_null()).count_rows():
                raise InputError(f"{pattern}: {lacking} of {rows} vectors have no {label!r}; label them all")
            found = kept.select(label).distinct().to_arrow()[label]
            if pa.types.is_floating(found.type):
                raise InputError(
                    f"{pattern}: {label!r} holds fractions; write labels as texts or whole numbers"
                )
            classes = sorted(_texts(found))
    return Vectors(files, io, label, tuple(classes), head, rows)


def calibrates(paths: Sequence[str], share: float) -> np.ndarray:
    """Return bool [N]: whether each row calibrates, a fixed function of its path."""
    digests = (hashlib.sha256(path.encode(errors="surrogatepass")).digest()[:8] for path in paths)
    return np.array([int.from_bytes(digest, "big") < share * _STEPS for digest in digests], bool)


def fit_shards(
    vectors: Vectors,
    name: str,
    settings: Any = None,
    *,
    alpha: float,
    seed: int = 0,
    progress: Progress = lambda count: None,
) -> Calibrated:
    """Fit the detector `name` to all vectors but those that calibrate it, file by file, and calibrate.

    Each file's sums are made by a worker of the engine; they merge in the order of the files' names, to what
    a fit to all rows at once gives, up to rounding. `progress` is called with 1 for each file, twice.
    Raises InputError for a detector that has no such sums, a setting that is "auto", too few vectors (also
    for a covariance that is to be inverted), vectors with NaN, or what the detector needs and the files lack.
    """
    kind = DETECTORS[known(name, "detector", DETECTORS)]
    if not issubclass(kind, Streaming) or kind.on_validation:
        sums = sorted(n for n, k in DETECTORS.items() if issubclass(k, Streaming) and not k.on_validation)
        raise InputError(f"{name} is not fitted by sums that merge; use one of {', '.join(sums)}")
    empty = kind(settings, seed=seed)
    if names := autos(empty.settings):
        raise InputError(f"{name}.{names[0]} is auto; give a value by --set {name}.{names[0]}=VALUE")
    expected = round(vectors.share * vectors.rows)
    if expected < images_needed(alpha):
        raise InputError(
            f"a threshold for alpha {alpha} needs at least {images_needed(alpha)} calibration vectors; a "
            f"share of {vectors.share:.0%} of {vectors.rows} is {expected}: give more vectors, or raise alpha"
        )

    def fitted(file: str) -> bytes:
        one = kind(settings, seed=seed)
        for outputs, held in _outputs(vectors, file, kind.reads):
            one.partial_fit(_rows(outputs, ~held))
        return pickle.dumps((one.sums, one.last, one.widths, one.counts))  # between our own processes

    for part in _each_file(vectors, fitted, progress):
        other = kind(settings, seed=seed)
        other.sums, other.last, other.widths, other.counts = pickle.loads(part)
        empty.merge(other)
    _check_covariances(empty, name)
    detector = empty.finish()

    def scored(file: str) -> bytes:
        parts = [
            detector.score(_rows(outputs, held)) for outputs, held in _outputs(vectors, file, kind.reads)
        ]
        return np.concatenate([np.empty(0), *parts]).tobytes()

    scores = np.concatenate([np.frombuffer(part) for part in _each_file(vectors, scored, progress)])
    calibration = np.sort(finite_scores(scores, name))
    count = f"{vectors.rows - len(calibration)} vectors of {len(vectors.files)} files"
    return Calibrated(
        {name: detector},
        calibration,
        conformal_threshold(calibration, alpha),
        origins={name: Origin({}, count)},
        calibrated_on=f"{len(calibration)} vectors chosen by their path",
        unmeasured="only vectors of ID images were given",
    )


def _check_covariances(detector: Streaming, name: str) -> None:
    """Raise InputError if a covariance that is to be inverted is singular but for its ridge."""
    ridge = getattr(detector.settings, "ridge", SMOOTH)
    for moments in (detector.sums or {}).values():
        if ridge >= SMOOTH or not isinstance(moments, Moments):
            continue
        count, width = int(moments.counts.sum()), moments.means.shape[1]
        if 0 < count < width + np.count_nonzero(moments.counts):
            raise InputError(
                f"{name} learns a covariance of {width} dimensions from {count} vectors, too few for all "
                f"directions; give more vectors, smooth it by --set {name}.ridge=0.1, or take knn"
            )


def _each_file(vectors: Vectors, work: Any, progress: Progress) -> Iterator[bytes]:
    """Yield what `work` gives for each file, in the order of their names."""
    daft = engine()

    @daft.func.batch(return_dtype=daft.DataType.binary(), batch_size=1)
    def worked(files: Any) -> list[bytes]:
        return [work(file) for file in files.to_pylist()]

    frame = daft.from_pydict({"file": list(vectors.files), "place": list(range(len(vectors.files)))})
    done: dict[int, bytes] = {}
    following = 0
    with said_once(vectors.files[0]):
        for batch in frame.select(daft.col("place"), worked(daft.col("file"))).to_arrow_iter():
            for row in pa.table(batch).to_pylist():
                done[row["place"]] = row["file"]
                progress(1)
            while following in done:  # merged in this order, whoever was first
                yield done.pop(following)
                following += 1


def _outputs(vectors: Vectors, file: str, reads: Sequence[str]) -> Iterator[tuple[Outputs, np.ndarray]]:
    """Yield (outputs of some rows of a file, whether each calibrates), at most BATCH rows at a time.

    Rows without a vector are left out, and so is a batch that has no others.
    """
    parts = list(dict.fromkeys(["features", *reads]))
    with ExitStack() as stack:
        if "://" in file:
            opened = stack.enter_context(engine().open_file(file, "rb", io_config=vectors.io))
        else:
            opened = stack.enter_context(open(file, "rb"))
        table = pq.ParquetFile(opened)
        if missing := [name for name in parts if name not in table.schema_arrow.names]:
            raise InputError(f"{file}: has no column {missing[0]!r}, which the detector reads")
        columns = ["path", *parts, *([vectors.label] if vectors.label else [])]
        try:
            for batch in table.iter_batches(BATCH, columns=columns):
                table = pa.Table.from_batches([batch])
                if len(table := table.filter(pc.is_valid(table["features"]))):
                    yield _some(vectors, table, file, parts)
        except pa.ArrowException as error:
            raise InputError(f"{file}: cannot be read ({as_line(error)}); write it again") from None


def _some(vectors: Vectors, table: pa.Table, file: str, parts: list[str]) -> tuple[Outputs, np.ndarray]:
    """Return the outputs of some rows, and whether each calibrates."""
    arrays: dict[str, Any] = {name: _matrix(table[name], file, name) for name in parts}
    labels = np.zeros(len(table), np.int64)
    if vectors.label:
        place = {name: index for index, name in enumerate(vectors.classes)}
        labels = np.array([place[text] for text in _texts(table[vectors.label])], np.int64)
    classes = len(vectors.classes) or 1
    outputs = Outputs(file, **arrays, labels=labels, classes=classes, head=vectors.head)
    return outputs, calibrates(_paths(table["path"], file), vectors.share)


def _texts(labels: pa.ChunkedArray) -> list[str]:
    """Return the names of classes."""
    return list(labels.cast(pa.string()).to_pylist())


def _paths(column: pa.ChunkedArray, file: str) -> list[str]:
    """Return what rows are called, whole numbers as texts; InputError if one has no name."""
    paths = column.to_pylist()
    for path in paths:
        if type(path) not in (int, str):
            raise InputError(
                f"{file}: a row with a vector has the path {path!r}; give each a text or a whole number, "
                "which decides whether it calibrates"
            )
    return [*map(str, paths)]


def _matrix(column: pa.ChunkedArray, file: str, name: str) -> np.ndarray:
    """Return a column of vectors as an array [N, D]; InputError unless they are equally wide."""
    array = column.combine_chunks()
    widths = pc.list_value_length(array)
    if len(pc.unique(widths)) > 1:
        raise InputError(f"{file}: the vectors in {name!r} are not all equally wide")
    return np.asarray(pc.list_flatten(array)).reshape(len(array), widths[0].as_py())


def _rows(outputs: Outputs, which: np.ndarray) -> Outputs:
    arrays = {part: getattr(outputs, part) for part in (*PARTS, "labels")}
    return replace(outputs, **{part: array[which] for part, array in arrays.items() if array is not None})
