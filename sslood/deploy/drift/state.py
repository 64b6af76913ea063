"""What is kept of a stream between calls: a JSON file of bounded size, bound to one detector.

It holds the counts of `sslood.deploy.drift.online` and the stakes of `sslood.deploy.drift.betting`, a line
for each of the last batches, and what tells that a picture was counted before. Nothing of it names a picture.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.core.files import load_json, save_json
from sslood.core.settings import strict
from sslood.deploy.drift.betting import BETS
from sslood.deploy.drift.online import Reference

KIND, VERSION = "drift stream", 1
KEPT = 4096  # hashes of pictures that are kept, the smallest: a sample of all, the same of every batch
RECORDS = 1000  # of batches that are kept, the last
ALIKE = 4  # pictures counted before by name and about the score, from which it is no coincidence
STEP = 5e-5  # of the quartiles' distance: scores so close may be one picture's, in batches of other sizes


@dataclass(frozen=True)
class Record:
    """What was found in one batch.

    flags_p, scores_p, vectors_p, classifier_p: of the tests of this batch alone; the last two None without
    vectors. evidence: log10 of the capital after the batch; highest: within it.
    """

    name: str
    images: int
    flagged: int
    flags_p: float
    scores_p: float
    evidence: float
    highest: float
    vectors_p: float | None = None
    digest: str = ""
    classifier_p: float | None = None


@dataclass(frozen=True)
class Alarm:
    """Where the evidence reached 1 / delta first. batch, image: numbers from 1, the image's in its batch.

    ordered: whether the images of the batch were in the order of time, or else shuffled; record: its Record.
    """

    batch: int
    image: int
    ordered: bool
    record: dict | None = None


@dataclass(frozen=True)
class State:
    """A stream so far.

    detector: checksum of the detector file; calibration: that of its calibration scores. counts: how many
    calibration images and images of the stream lie in each bin. log_stakes: of the bets, [] before the first
    image. highest: log10 of the highest capital so far. batches: the last ones; dropped: number of those
    before. seen, alike: the smallest hashes of images by `hashes_of` and `steps_of`, hexadecimal.
    """

    detector: str
    delta: float
    seed: int
    counts: tuple[int, ...]
    images: int = 0
    log_stakes: tuple[float, ...] = ()
    highest: float = 0.0
    alarm: dict | None = None
    batches: tuple[dict, ...] = ()
    seen: str = field(default="", repr=False)
    dropped: int = 0
    alike: str = field(default="", repr=False)

    @classmethod
    def begin(cls, detector: str, calibration: np.ndarray, *, delta: float, seed: int) -> "State":
        """Return the state before the first image; InputError for a delta that is no probability."""
        if not 0 < delta < 1:
            raise InputError(f"--delta must be above 0 and below 1, found {delta}")
        counts = Reference.of(calibration, seed).counts
        return cls(detector, delta, seed, tuple(counts.tolist()))

    @property
    def records(self) -> list[Record]:
        """The batches so far, at most the last RECORDS."""
        return [strict(Record, batch, "batches") for batch in self.batches]

    @property
    def raised(self) -> Alarm | None:
        """The alarm, if there was one."""
        if self.alarm is None:
            return None
        alarm = strict(Alarm, self.alarm, "alarm")
        if alarm.record is None:  # by an earlier version, which dropped no batch
            alarm = replace(alarm, record=self.batches[alarm.batch - 1])
        return alarm

    @property
    def count(self) -> int:
        """The number of all batches so far."""
        return self.dropped + len(self.batches)

    @property
    def stakes(self) -> np.ndarray:
        """log_stakes as `bet` takes them: float64 [bets]."""
        return np.array(self.log_stakes) if self.log_stakes else np.full(len(BETS), -np.inf)

    def reference(self, calibration: np.ndarray) -> Reference:
        """Return what later images are compared with."""
        return replace(Reference.of(calibration, self.seed), counts=np.array(self.counts, np.int64))

    def counted_before(self, hashes: np.ndarray) -> np.ndarray:
        """Return which hashes uint64 [N] belong to images that are known to be counted: bool [N].

        All are known of the first KEPT images; later ones with the share KEPT / images.
        """
        return np.isin(hashes, _read(self.seen))

    def resembling(self, steps: np.ndarray) -> np.ndarray:
        """Return which images, uint64 [N, 2] of `steps_of`, resemble one known to be counted: bool [N].

        An image that is none of those does with a probability of about STEP for each of its name.
        """
        return np.asarray(np.isin(steps, _read(self.alike)).any(axis=1))

    def with_seen(self, hashes: np.ndarray) -> str:
        """Return `seen` after images with these hashes."""
        return _merged(self.seen, hashes)

    def with_batch(self, record: Record, hashes: np.ndarray, steps: np.ndarray) -> "State":
        """Return the state after a batch with this record, as far as it tells batches and images apart."""
        batches = (*self.batches, asdict(record))[-RECORDS:]
        return replace(
            self,
            batches=batches,
            dropped=self.count + 1 - len(batches),
            seen=self.with_seen(hashes),
            alike=_merged(self.alike, steps[:, 0]),
        )


def _merged(text: str, hashes: np.ndarray) -> str:
    return _write(np.union1d(_read(text), hashes)[:KEPT])


def _read(text: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(text), ">u8").astype(np.uint64)


def _write(hashes: np.ndarray) -> str:
    return hashes.astype(">u8").tobytes().hex()


def hashes_of(names: Sequence[str], scores: np.ndarray) -> np.ndarray:
    """Return uint64 [N] that tell images apart: by name and score, so that a name may be used again.

    The same image in a batch of another size, or on another processor, where the last digits differ, is
    another one: see `steps_of`.
    """
    texts = (f"{name}\n{score!r}" for name, score in zip(names, scores.tolist(), strict=True))
    digests = (hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8) for text in texts)
    return np.frombuffer(b"".join(one.digest() for one in digests), ">u8").astype(np.uint64)


def steps_of(names: Sequence[str], scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Return uint64 [N, 2] that tell images apart by name and about the score, of the two nearest steps.

    Steps are STEP of the distance between the quartiles of the calibration scores. An image whose score
    changes by less than half a step has its first hash, the nearest step's, among the two of the other.
    """
    spread = np.subtract(*np.quantile(calibration, (0.75, 0.25))) or np.ptp(calibration) or 1.0
    places = scores / (STEP * spread)
    first = np.round(places)
    second = first + np.where(places < first, -1.0, 1.0)
    return np.stack([hashes_of(names, steps + 0.0) for steps in (first, second)], axis=1)  # 0.0 for -0.0


def digest_of(hashes: np.ndarray) -> str:
    """Return what tells a batch from others, in whatever order its images are."""
    return hashlib.sha256(np.sort(hashes).astype(">u8").tobytes()).hexdigest()[:16]


def save_state(path: str | Path, state: State) -> None:
    """Write a state; a reader sees the old one or the new one."""
    content = json.loads(json.dumps(asdict(state)))
    save_json(path, {"kind": KIND, "version": VERSION, **content, "checksum": _checksum(content)})


def load_state(path: str | Path, detector: str) -> State:
    """Read a state that was begun with the detector file of this checksum.

    Raises InputError if it is of another detector, damaged, or no such file.
    """
    try:
        content = load_json(path)
    except InputError as error:
        what = str(error).rpartition("; ")[0]  # without what helps for results of the pipeline
        raise InputError(f"{what or error}; take a copy of it, or begin a new file") from None
    if not isinstance(content, dict) or content.pop("kind", None) != KIND:
        raise InputError(f"{path}: is no state of a stream; name another file, which `drift` will begin")
    if content.pop("version", None) != VERSION:
        raise InputError(f"{path}: written by another version of this program; begin a new file")
    if content.pop("checksum", None) != _checksum(content):
        raise InputError(f"{path}: was changed or is damaged; take a copy of it, or begin a new file")
    try:
        state = strict(State, content, str(path))
        fits = len(state.log_stakes) in (0, len(BETS)) and state.records is not None
        _read(state.seen), _read(state.alike)
    except ValueError:  # InputError among them
        fits = False
    if not fits:
        raise InputError(f"{path}: was changed or is damaged; take a copy of it, or begin a new file")
    if state.detector != detector:
        raise InputError(
            f"{path}: this stream was begun with another detector file (checksum {state.detector[:12]}…, not "
            f"{detector[:12]}…), whose scores cannot be compared; go on with that one, or begin a new file"
        )
    return state


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextmanager
def alone(path: str | Path) -> Iterator[None]:
    """Hold `path`.lock, so that no other process counts a batch meanwhile; InputError if one does."""
    place = Path(f"{path}.lock")
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{path}: another run is adding a batch to it; wait until it is done") from None
        yield
