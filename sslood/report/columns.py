"""The metrics of the tables and the columns of results.csv: their names, directions and meanings.

This is the only place that knows them: another metric beside AUROC on the page and in the tables is a
change of SECOND.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A measure of how well scores separate OOD from ID images, as a fraction."""

    title: str  # heading in tables for people
    meaning: str
    rising: bool = False  # whether larger is better
    summarised: bool = True  # whether summary.json holds it


METRICS = {
    "auroc": Metric(
        "AUROC",
        "share of (ID, OOD) pairs in which the OOD image has the higher score; ties count half",
        rising=True,
    ),
    "fpr95_id": Metric("FPR95", "share of OOD accepted at the threshold that accepts 95 % of ID"),
    "fpr95_ood": Metric("FPR95 (OOD)", "share of ID rejected at the threshold that rejects 95 % of OOD"),
    "aupr_in": Metric(
        "AUPR-in",
        "area under the precision-recall curve with ID as the positive class, at the sets' own sizes",
        rising=True,
    ),
    "aupr_out": Metric("AUPR-out", "the same with OOD as the positive class", rising=True),
    "aupr_in_balanced": Metric(
        "AUPR-in, balanced", "aupr_in with both classes weighted equally", rising=True, summarised=False
    ),
    "aupr_out_balanced": Metric(
        "AUPR-out, balanced", "aupr_out with both classes weighted equally", rising=True, summarised=False
    ),
    "detection_error": Metric("detection error", "smallest mean of the two error rates over all thresholds"),
}
# Detectors are ranked, shaded and marked by MAIN. It stays AUROC as long as the significance test is DeLong's
# and the artefact control is measured in it. SECOND is shown beside it.
MAIN, SECOND = "auroc", "fpr95_id"
HEADLINE = (MAIN, SECOND)  # metrics/ood/*.json
SUMMARISED = tuple(name for name, metric in METRICS.items() if metric.summarised)
FILTERED = "filtered_"  # prefix of metrics without the images that the audit excludes
WITH_FILTERED = tuple(dict.fromkeys((*HEADLINE, "fpr95_ood")))
FULL = "full_"  # prefix of full-spectrum metrics, in which shifted sets count as ID
# Beside the metrics: what they say for one threshold, for ID under shift, and for a classifier's mistakes.
DECISIONS = {
    f"{FULL}auroc": Metric(
        "AUROC, full spectrum",
        "auroc with the test images of all sets of role shifted counted as ID too (OpenOOD v1.5, "
        "arXiv:2306.09301)",
        rising=True,
    ),
    f"{FULL}fpr95_id": Metric("FPR95, full spectrum", "fpr95_id with them counted as ID too"),
    "flagged": Metric(
        "flagged", "share of OOD called OOD at the conformal threshold for `summarize.alpha`", rising=True
    ),
    "false_alarms": Metric("false alarms", "share of ID test images called OOD at that threshold"),
    "aurc_ood": Metric(
        "AURC with OOD",
        "area under the risk-coverage curve of ID test and OOD images, half each by weight, where a mistake "
        "and an OOD image are both failures (arXiv:2207.07506)",
    ),
    "eaurc_ood": Metric("E-AURC with OOD", "aurc_ood less that of the ideal order"),
}
BY_CLASS = "flagged_"  # prefix of the columns of alarms.csv
# Results are fractions of a few hundred images or more, so six decimals lose nothing. Between machines a
# float64 computation differs by about 1e-12, a millionth of the last decimal that is kept.
DIGITS = 6

_COLUMNS = {
    "stage": "evaluation stage that produced the row",
    "model": "model whose outputs are scored",
    "detector": "detector that scores them",
    "seed": "seed of the model; for an ensemble, the first of `runs.seeds`",
    "set": "OOD set, compared with the ID test set",
    "role": "near or far",
    **{name: metric.meaning for name, metric in METRICS.items()},
    "n_id": "number of ID test images",
    "n_ood": "number of OOD test images",
    "repeats": "number of repeats of a randomised detector (SSD_k), over which its metrics are averaged",
    "held_out": "AUROC of known images, left out of SSD_k in turn, against ID validation; mean over repeats",
    "held_out_ssd": "the same by SSD",
    "fallbacks": "number of repeats in which SSD_k is SSD itself, which is clearly better on known images "
    "that are left out",
    "alike": "1 where all repeats know the same images, so that they say nothing of a spread",
    f"{MAIN}_low": f"lower end of the 95 % "
    f"interval of {MAIN} over images (DeLong); none for means over repeats",
    f"{MAIN}_high": "upper end of that interval",
    "p_best": "adjusted p-value of no difference from the best detector for that seed and set "
    "(DeLong, Holm); none for detectors that have seen the OOD set",
    "control_auroc": "AUROC of the artefact control on the set",
    "price": "AUROC of the best row of that stage, model, seed and set in hindsight, minus that of `auto`",
    **{name: metric.meaning for name, metric in DECISIONS.items()},
    "calibrated_on": "images whose scores made the threshold: ID validation, as `deploy` does, or, where the "
    "model was trained or the detector fitted on it, or its scores were not kept, each half of ID test for "
    "the other half",
}
ALARMS = {
    "set": "the ID set, or a set of role shifted",
    "images": "number of its test images",
    "flagged": "share of them called OOD at the threshold; of a shifted set by halves, a mean over the two",
    "spread": "standard deviation of that share over classes",
    "p_equal": "p-value of equal shares in all classes (Pearson's chi-squared test)",
    "auroc": "of a shifted set against ID test: 0.5 if the detector does not see the shift",
    f"{BY_CLASS}<class>": "share of the class called OOD",
}
_STD = "standard deviation over repeats"
_WITHOUT = "without the images that the audit excludes"


def describe(column: str) -> str:
    """Return what a column of results.csv holds, "" for an unknown one."""
    if column.startswith(FILTERED):
        return f"{column.removeprefix(FILTERED)} {_WITHOUT}"
    if column.endswith("_std") and column.removesuffix("_std") in METRICS:
        return f"{_STD} of {column.removesuffix('_std')}"
    return _COLUMNS.get(column, "")


def describe_all(columns: Iterable[str]) -> dict[str, str]:
    """Return {column: meaning} of `columns`, with one entry for each family of derived columns."""
    own = {name: describe(name) for name in columns if name in _COLUMNS}
    return own | {f"{FILTERED}<metric>": f"the metric {_WITHOUT}, on both sides", "<metric>_std": _STD}


def rising(column: str) -> bool:
    """Whether larger values of a metric, filtered or not, are better."""
    return (METRICS | DECISIONS)[column.removeprefix(FILTERED)].rising
