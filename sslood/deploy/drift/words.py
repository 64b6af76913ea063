"""What was found in a batch and in its stream, in sentences."""

import math

from sslood.deploy.calibrated import Calibrated
from sslood.deploy.drift.state import Record, State
from sslood.deploy.drift.vectors import Comparison
from sslood.deploy.drift.watch import Watch
from sslood.deploy.thresholds import in_percent


def of_batch(record: Record, calibrated: Calibrated, vectors: Comparison | None = None) -> list[str]:
    """Return what the tests of one batch found."""
    share, alpha = record.flagged / record.images, calibrated.threshold.alpha
    images = len(calibrated.calibration)
    lines = [
        f"{record.name}: {record.flagged} of {record.images} pictures are called OOD ({share:.1%}; of ID "
        f"{in_percent(alpha)} on average)",
        f"So many flags: p = {record.flags_p:.2g} (one-sided; binomial, given {images} calibration images)",
        f"Such scores: p = {record.scores_p:.2g} (Kolmogorov-Smirnov, against those of the same images)",
    ]
    if vectors is not None:
        lines.append(
            f"Such vectors: p = {vectors.p_value:.2g} (MMD^2 {vectors.mmd2:.3g}, {vectors.batch} against "
            f"{vectors.reference} of the reference, by permutation)"
        )
        lines.append(
            f"Told apart by a classifier: p = {vectors.classifier_p:.2g} (AUROC {vectors.auroc:.3f} on "
            "vectors that it did not see; 0.5 is not at all)"
        )
    return lines


def of_stream(watch: Watch) -> str:
    """Return how far the evidence is, or that it raised the alarm."""
    state = watch.state
    evidence = state.records[-1].evidence if state.batches else 0.0
    limit = number(-math.log10(state.delta))
    alarm = state.raised
    if alarm is None:
        highest = number(state.highest)
        return f"no alarm: evidence {number(evidence)}, so far at most {highest}, where {limit} raise it"
    place = f"picture {alarm.image:,} of batch {alarm.batch} ({(alarm.record or {})['name']})"
    if not alarm.ordered:
        place += ", in shuffled order"
    toward = "as OOD as" if watch.toward_ood() else "as ordinary as"
    return (
        f"ALARM since {place}: so many pictures are {toward} few calibration images are; evidence reached "
        f"{number(state.highest)}, and {limit} by chance in at most {in_percent(state.delta)} of streams"
    )


def of_size(state: State) -> str:
    """Return how much a stream holds."""
    count = state.count
    pictures = f"{state.images:,} picture{'s' * (state.images != 1)}"
    return f"{pictures} in {count:,} batch{'es' * (count != 1)}"


def number(log10: float) -> str:
    """Return 10 to the power of a number in words, however large."""
    return f"{10**log10:.3g}" if log10 < 6 else f"10^{log10:.0f}"
