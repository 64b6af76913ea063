"""A stream of pictures under watch: each batch is tested alone, and adds to the evidence of the whole.

from sslood.deploy.drift.watch import Watch

watch = Watch.open("mine.safetensors", "stream.json", delta=0.01)
record = watch.add("monday.csv")  # the tests of this batch; the state is saved
watch.state.raised  # an Alarm, once the evidence has reached 1 / delta
"""

import math
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from sslood.core.errors import InputError
from sslood.core.files import read_metadata
from sslood.core.names import shown
from sslood.core.seeding import numpy_stream, stream_seed
from sslood.deploy.calibrated import Calibrated
from sslood.deploy.drift.batches import Group, flags_p_value, scores_p_value
from sslood.deploy.drift.betting import BETS, bet
from sslood.deploy.drift.online import Reference, open_interval
from sslood.deploy.drift.scored import Scored, read_scores
from sslood.deploy.drift.state import (
    ALIKE,
    Alarm,
    Record,
    State,
    alone,
    digest_of,
    hashes_of,
    load_state,
    save_state,
    steps_of,
)
from sslood.deploy.drift.vectors import Comparison
from sslood.deploy.scorer import load_deployed
from sslood.ood.measures.conformal import Threshold

DELTA = 0.01  # probability of a false alarm, ever


def groups_of(scored: Scored, calibrated: Calibrated) -> list[Group]:
    """Return how many pictures of a batch each threshold flags."""
    flagged = calibrated.is_ood(scored.scores, scored.places)
    if calibrated.by_class is None or scored.places is None:
        return [_group(calibrated.threshold, flagged)]
    places = enumerate(calibrated.by_class.thresholds)
    return [_group(threshold, flagged[scored.places == place]) for place, threshold in places]


def _group(threshold: Threshold, flagged: np.ndarray) -> Group:
    allowed = math.floor((threshold.images + 1) * Fraction(repr(threshold.alpha)))
    return Group(threshold.images, allowed, len(flagged), int(flagged.sum()))


def judge_batch(
    scored: Scored, calibrated: Calibrated, name: str, vectors: Comparison | None = None
) -> Record:
    """Return the tests of one batch alone, without a stream. vectors: of `compare_vectors`, if compared."""
    groups = groups_of(scored, calibrated)
    flags, scores = flags_p_value(groups), scores_p_value(calibrated.calibration, scored.scores)
    flagged = sum(group.flagged for group in groups)
    record = Record(shown(name), len(scored.scores), flagged, flags, scores, 0.0, 0.0)
    if vectors is None:
        return record
    return replace(record, vectors_p=vectors.p_value, classifier_p=vectors.classifier_p)


def counted(
    state: State, scored: Scored, calibrated: Calibrated, record: Record, *, ordered: bool = False
) -> State:
    """Return the state after a batch, with `record` completed as the last of its batches.

    ordered: the pictures are in the order in which they were taken. Otherwise they are shuffled: a folder is
    sorted by name, and so perhaps by class, which is no drift. Raises InputError, and counts nothing, if a
    picture was counted before.
    """
    hashes = hashes_of(scored.names, scored.scores)
    steps = steps_of(scored.names, scored.scores, calibrated.calibration)
    _check_new(state, hashes, steps, scored, record.name)
    count = len(hashes)
    order = np.arange(count)
    if not ordered:
        order = numpy_stream(state.seed, "drift", "order", state.images).permutation(count)
    reference = state.reference(calibrated.calibration)
    theta = _ties(state.seed, state.images, count)
    p, after = reference.p_values(reference.bins(scored.scores[order]), theta)
    stakes, evidence = bet(state.stakes, p, state.images)
    logs = evidence / math.log(10)
    digest = digest_of(hashes)
    record = replace(record, evidence=float(logs[-1]), highest=float(logs.max()), digest=digest)
    alarm = state.raised
    if alarm is None and (reached := logs >= -math.log10(state.delta)).any():
        alarm = Alarm(state.count + 1, int(reached.argmax()) + 1, ordered, asdict(record))
    return replace(
        state.with_batch(record, hashes, steps),
        counts=tuple(after.counts.tolist()),
        images=state.images + count,
        log_stakes=tuple(stakes.tolist()),
        highest=max(state.highest, record.highest),
        alarm=None if alarm is None else asdict(alarm),
    )


def _ties(seed: int, before: int, count: int) -> np.ndarray:
    """Return the numbers that break ties for images `before` + 1, ...: the same however they are batched."""
    bits = np.random.PCG64(stream_seed(seed, "drift", "ties")).advance(before)
    return open_interval(np.random.Generator(bits).random(count))


def _check_new(state: State, hashes: np.ndarray, steps: np.ndarray, scored: Scored, name: str) -> None:
    digest = digest_of(hashes)
    for number, record in enumerate(state.records, state.dropped + 1):
        if record.digest == digest:
            raise InputError(
                f"{name}: its pictures were counted before, as batch {number} ({record.name}); a picture "
                "counts once, so nothing was added"
            )
    _, first, times = np.unique(hashes, return_index=True, return_counts=True)
    again = np.flatnonzero(state.counted_before(hashes))
    where = "in an earlier batch"
    if not again.size:
        again, where = first[times > 1], "in this batch"
    if again.size:
        raise InputError(
            f"{name}: {shown(repr(scored.names[again[0]]))} was counted before, {where}, with the same "
            "score; a picture counts once: leave out those that were, or give new pictures new names"
        )
    alike = np.flatnonzero(state.resembling(steps))
    if alike.size >= ALIKE:
        raise InputError(
            f"{name}: {alike.size} of its pictures, {shown(repr(scored.names[alike[0]]))} among them, have "
            "the names and but for rounding the scores of pictures that were counted before; a picture "
            "counts once: leave out those that were, or give new pictures new names"
        )


@dataclass
class Watch:
    """A detector, and the state of a stream in the file `path`."""

    path: Path
    calibrated: Calibrated
    state: State

    @classmethod
    def open(
        cls,
        detector: str | Path,
        path: str | Path,
        *,
        delta: float | None = None,
        seed: int | None = None,
        calibrated: Calibrated | None = None,
    ) -> "Watch":
        """Return the watch of a stream, begun with `delta` (or DELTA) and `seed` (or 0) if there is no file.

        calibrated: that of the detector file, if it was read before. Raises InputError if the stream was
        begun with another detector, delta or seed.
        """
        calibrated = calibrated or load_deployed(detector).calibrated
        mark, path = str(read_metadata(detector, kind="detector")["checksum"]), Path(path)
        if not path.exists():
            begun = State.begin(
                mark, calibrated.calibration, delta=DELTA if delta is None else delta, seed=seed or 0
            )
            return cls(path, calibrated, begun)
        state = load_state(path, mark)
        for name, asked, kept in (("delta", delta, state.delta), ("seed", seed, state.seed)):
            if asked not in (None, kept):
                raise InputError(
                    f"{path}: this stream was begun with {name} {kept}; a promise cannot be changed while "
                    f"it is being kept: omit --{name}, or begin a new file"
                )
        if len(state.counts) != len(Reference.of(calibrated.calibration, state.seed).counts):
            raise InputError(f"{path}: does not fit its detector; begin a new file")
        return cls(path, calibrated, state)

    def add(
        self,
        batch: str | Path | Scored,
        name: str = "",
        *,
        ordered: bool = False,
        vectors: Comparison | None = None,
    ) -> Record:
        """Test and count a batch, a table of scores or what was just scored, and return the tests.

        name: of the batch, by default of the file. vectors: how its vectors compare with others. Raises
        InputError, and leaves the state as it was, for a picture that was counted before, and if another
        process adds to the same stream.
        """
        if isinstance(batch, str | Path):
            name, batch = name or Path(batch).name, read_scores(Path(batch), self.calibrated)
        record = judge_batch(batch, self.calibrated, name or "batch", vectors)
        with alone(self.path):
            if self.path.exists():  # another process may have added a batch since
                self.state = load_state(self.path, self.state.detector)
            self.state = counted(self.state, batch, self.calibrated, record, ordered=ordered)
            save_state(self.path, self.state)
        return self.state.records[-1]

    def toward_ood(self) -> bool:
        """Whether the bets on small p-values hold more than those on large ones."""
        low = np.array([on_small for _, _, on_small in BETS])
        stakes = self.state.stakes
        return bool(np.logaddexp.reduce(stakes[low]) >= np.logaddexp.reduce(stakes[~low]))
