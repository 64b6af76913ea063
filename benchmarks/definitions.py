"""How far definitions of one metric lie apart, by the scores of two published networks on CIFAR-10.

    python -m benchmarks.definitions --data data          # some minutes of one core
    python -m benchmarks.definitions --data data ties     # seconds

--data and --folder as for `findings`, whose detectors and settings these are. Parts:

- sides: which side of FPR95 and AUPR is positive, and how many images stand on each
- ties: MSP in few bits, and the threshold that is closest to 95 %

The brackets of gaps come from a bootstrap over the images; a pair of detectors is certainly reversed if in
97.5 % of its draws the one is better by one number, and the other by the other.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.findings import (
    KNOWN,
    NAMES,
    SETS,
    Run,
    auroc,
    command,
    order,
    points,
    show,
)
from sslood.core.seeding import numpy_stream
from sslood.ood.measures.comparison import Scores, delong_test
from sslood.ood.measures.metrics import ood_metrics, threshold_counts

DRAWS = 40  # of the bootstrap
VIEWS = (
    ("fpr95_id", "fpr95_ood"),
    ("aupr_in", "aupr_out"),
    ("aupr_out", "aupr_out_5"),
    ("aupr_out", "aupr_out_balanced"),
    ("auroc", "fpr95_id"),
    ("auroc", "fpr95_ood"),
    ("auroc", "aupr_out_5"),
)


def certain(first: np.ndarray, second: np.ndarray) -> int:
    """Return the pairs that `first` [B, D] orders one way, and `second` the other, in 97.5 % of the draws."""
    found = 0
    for i, j in combinations(range(first.shape[1]), 2):
        one, other = (np.sign(side[:, i] - side[:, j]) for side in (first, second))
        found += any(min((one == s).mean(), (other == -s).mean()) >= 0.975 for s in (-1, 1))
    return found


def closest_fpr95(scores: Scores) -> float:
    """Return the share of OOD images accepted at the threshold that accepts nearest to 95 % of ID images."""
    counts = threshold_counts(scores.id, scores.ood)
    return float(counts.ood_le[np.abs(20 * counts.id_le - 19 * counts.n_id).argmin()] / counts.n_ood)


def in_favour(scores: Scores) -> float:
    """Return the AUROC that counts every tie as right."""
    return auroc(Scores(scores.id, np.nextafter(scores.ood, np.inf)))


def viewed(scores: Scores, some: np.ndarray) -> dict[str, float]:
    """Return all metrics, larger = better, and aupr_out_5: with a fifth as many OOD images, `some`."""
    found = {**ood_metrics(scores.id, scores.ood)}
    found["aupr_out_5"] = ood_metrics(scores.id, scores.ood[some])["aupr_out"]
    return {key: 1 - value if key.startswith("fpr95") else value for key, value in found.items()}


def sides(runs: Sequence[Run]) -> None:
    for run in runs:
        _sides(run)


def _sides(run: Run) -> None:
    found, rows = run.detectors(), []
    for name in SETS:
        pairs, draws = [one.at(name) for one in found], []
        n_id, n_ood = len(pairs[0].id), len(pairs[0].ood)
        random = numpy_stream(0, "findings", name)
        for draw in tqdm(range(DRAWS + 1), desc=name, disable=None):  # the first is the sets as they are
            i, o = (random.integers(n, size=n) if draw else np.arange(n) for n in (n_id, n_ood))
            some = random.choice(n_ood, min(n_ood, n_id // 5), replace=False)
            draws.append([viewed(Scores(pair.id[i], pair.ood[o]), some) for pair in pairs])
        for keys in VIEWS:
            first, second = (np.array([[row[key] for row in draw] for draw in draws]) for key in keys)
            gaps = 100 * np.abs(first - second)
            most = int(gaps[0].argmax())
            low, high = np.quantile(gaps[1:, most], (0.025, 0.975))
            far = f"{gaps[0, most]:.1f} [{low:.1f}, {high:.1f}] {found[most].name}"
            cells = [f"{gaps[0].mean():.1f}", far] if keys[0][:4] == keys[1][:4] else ["", ""]
            ordered = order(list(first[0]), list(second[0]), found)
            rows.append([name, *keys, *cells, *ordered, certain(first[1:], second[1:])])
    head = "set; one; other; mean gap; largest; reversed; tau; best; certain"
    show(f"{run.model}: two numbers of the same scores, {len(found)} detectors", head, rows)


def few_bits(logits: np.ndarray) -> dict[str, np.ndarray]:
    """Return -max softmax of logits [N, K] by number format: float64 [N]; larger = more OOD."""
    wide = torch.from_numpy(np.array(logits)).double().softmax(1).amax(1)
    kinds = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16}
    found = {name: -wide.to(kind).double().numpy() for name, kind in kinds.items()}
    return {**found, "4 decimals": -np.round(wide.numpy(), 4), "2 decimals": -np.round(wide.numpy(), 2)}


def ties(runs: Sequence[Run]) -> None:
    for run in runs:
        _ties(run)


def _ties(run: Run) -> None:
    found, rows = run.detectors(), []
    logits = {name: run.file.outputs(name, "test").need("logits") for name in (KNOWN, *SETS)}
    known, exact = few_bits(logits[KNOWN]), found[NAMES.index("msp")]
    for name in SETS:
        for kind, outside in few_bits(logits[name]).items():
            scores = Scores(known[kind], outside)
            one = f"{100 * (known[kind] == -1).mean():.1f}"
            wrong = 1 - in_favour(Scores(outside, known[kind]))
            range_ = f"{100 * wrong:.2f} to {100 * in_favour(scores):.2f}"
            lost = points(delong_test(exact.at(name), scores))
            rates = [float(ood_metrics(scores.id, scores.ood)[key]) for key in ("fpr95_id", "fpr95_ood")]
            numbers = [f"{100 * rate:.2f}" for rate in (rates[0], closest_fpr95(scores), rates[1])]
            rows.append([name, kind, one, f"{100 * auroc(scores):.2f}", lost, range_, *numbers])
    head = "set; MSP in; ID at 1 (%); AUROC; against logarithms; ties all wrong to all right; FPR95 (ID); "
    show(run.model, head + "closest to 95 %; FPR95 (OOD)", rows)
    every = [one.at(name) for one in found for name in SETS]
    gaps = [100 * abs(closest_fpr95(s) - float(ood_metrics(s.id, s.ood)["fpr95_id"])) for s in every]
    print(f"\nall detectors, closest against conservative: mean {np.mean(gaps):.3f}, at most {max(gaps):.2f}")


main = command("Print how far definitions of one metric lie apart.", {"sides": sides, "ties": ties})

if __name__ == "__main__":
    main()
