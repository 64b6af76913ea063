"""What each column of results.csv holds."""

from collections.abc import Iterable

COLUMNS = {
    "stage": "evaluation that gave the row",
    "model": "model whose outputs are scored",
    "detector": "detector that scores them",
    "seed": "seed of the model; of a leave-out ensemble the first of `runs.seeds`",
    "set": "OOD set, tested against the ID test set",
    "role": "near or far",
    "auroc": "share of (ID, OOD) pairs in which the OOD image scores higher, equal scores counted half",
    "fpr95_id": "share of OOD accepted when 95 % of ID is accepted",
    "fpr95_ood": "share of ID rejected when 95 % of OOD is caught",
    "aupr_in": "area under precision-recall with ID as the positive class, in the sets' own proportion",
    "aupr_out": "the same with OOD as the positive class",
    "aupr_in_balanced": "aupr_in with both classes at equal weight",
    "aupr_out_balanced": "aupr_out with both classes at equal weight",
    "detection_error": "smallest mean of the two error rates over all thresholds",
    "n_id": "ID test images",
    "n_ood": "OOD test images",
    "repeats": "repeats of a detector that draws (SSD_k); its metrics are means over them",
    "auroc_low": "lower end of the 95 % interval of auroc over images (DeLong); none for means over repeats",
    "auroc_high": "upper end of it",
    "p_best": "adjusted p-value of no difference to the best detector of the seed and set (DeLong, Holm); "
    "none for detectors that know the OOD set",
    "control_auroc": "AUROC of the artefact control on the set",
}
_STD = "standard deviation over repeats"
_FILTERED = "without the images that the audit leaves out"


def described(column: str) -> str:
    """Return what a column holds, "" where it is not known."""
    if column.startswith("filtered_"):
        return f"{column.removeprefix('filtered_')} {_FILTERED}"
    if column.endswith("_std") and column.removesuffix("_std") in COLUMNS:
        return f"{_STD} of {column.removesuffix('_std')}"
    return COLUMNS.get(column, "")


def columns_list(columns: Iterable[str]) -> str:
    """Return a Markdown list: what each of `columns` holds."""
    lines = [f"- `{name}`: {described(name)}" for name in columns if not name.startswith("filtered_")]
    lines = [line for line in lines if f": {_STD}" not in line]
    lines += [f"- `filtered_<metric>`: {_FILTERED}, on both sides", f"- `<metric>_std`: {_STD}"]
    return "Fractions, not %. Larger scores are more OOD.\n\n" + "\n".join(lines) + "\n"
