"""Watching a stream: false alarms over simulated streams, and how soon a real drift is found.

    python -m benchmarks.drift --embeddings data/embeddings/0/resnet20.safetensors --figure docs/drift.svg

1. 10,000 streams that are like their calibration images: the share in which the evidence ever reaches
   1 / delta, as `drift` computes it, and from p-values that all share the calibration set (as `score` does).
2. 10,000 batches that are like them: the share with p <= 0.01 by the tests of a batch, and by a binomial test
   that takes alpha for the true rate.
3. CIFAR-10 test turning into CIFAR-100 (`--embeddings` of a published ResNet-20; energy): images from the
   change to the alarm at delta 0.01, with the bets of `drift`, the power martingale mixed over its exponent
   (Vovk et al., 2003) and the Composite Jumper (Vovk et al., 2021), on the same p-values.
4. What one threshold, and one for each predicted class, call OOD of new CIFAR-10 images of each class.

Without --embeddings only 1 and 2. --streams 1000 for a quick look. One core, a few minutes.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import binom, kstest

from sslood.deploy.by_class import ByClass
from sslood.deploy.drift.batches import Group, flags_p_value, scores_p_value
from sslood.deploy.drift.betting import BETS, bet
from sslood.deploy.drift.online import Reference, open_interval
from sslood.deploy.thresholds import p_values
from sslood.ood.kit.outputs import Embeddings, read_embeddings
from sslood.ood.measures.conformal import conformal_threshold
from sslood.report.figures import svg
from tests.kit.registries import example

DELTAS = (0.1, 0.05, 0.01)
CHANGES = ((1.0, 500), (1.0, 4000), (0.3, 500), (0.3, 4000), (0.1, 500))  # share of CIFAR-100, images before
AFTER, REPEATS = 2000, 100


def online(calibration: np.ndarray, stream: np.ndarray, seed: int) -> np.ndarray:
    """Return the p-values of a stream as `drift` has them."""
    reference = Reference.of(np.sort(calibration), seed)
    theta = open_interval(np.random.default_rng(seed).random(len(stream)))
    return reference.p_values(reference.bins(stream), theta)[0]


def evidence(p: np.ndarray) -> np.ndarray:
    """Return the log evidence [S, N] of p-values [S, N]."""
    return bet(np.full((len(p), len(BETS)), -np.inf), p, 0)[1]


def power_mixture(p: np.ndarray) -> np.ndarray:
    """Return the log capital [S, N] of the power martingale, mixed over 200 exponents."""
    counts, logs = np.arange(1, p.shape[1] + 1), np.log(p).cumsum(1)
    found = np.full(p.shape, -np.inf)
    for exponent in (np.arange(200) + 0.5) / 200:
        found = np.logaddexp(found, counts * np.log(exponent) + (exponent - 1) * logs - np.log(200))
    return found


def composite_jumper(p: np.ndarray) -> np.ndarray:
    """Return the log capital [S, N] of the mean of five Simple Jumpers, of rates 0.0001 to 1."""
    bets, found = np.array([-1.0, 0.0, 1.0]), []
    for rate in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        shares, logs = np.full((len(p), 3), 1 / 3), np.zeros(p.shape)
        for place in range(p.shape[1]):
            shares = ((1 - rate) * shares + rate / 3) * (1 + bets * (p[:, place, None] - 0.5))
            total = shares.sum(1, keepdims=True)
            shares /= total
            logs[:, place] = np.log(total[:, 0])
        found.append(logs.cumsum(1))
    return np.logaddexp.reduce(found) - np.log(5)


def false_alarms(streams: int, calibrated: int, length: int) -> None:
    """Print the share of streams with an alarm though nothing changes."""
    random = np.random.default_rng(0)
    ours, split = np.zeros(streams), np.zeros(streams)
    for start in range(0, streams, 500):
        both: tuple[list, list] = ([], [])
        for place in range(start, min(start + 500, streams)):
            scores = random.normal(size=calibrated + length)
            both[0].append(online(scores[:calibrated], scores[calibrated:], place))
            smooth = random.random(length) / (calibrated + 1)
            both[1].append(p_values(scores[:calibrated], scores[calibrated:]) - smooth)
        for found, p in zip((ours, split), both, strict=True):
            found[start : start + 500] = evidence(open_interval(np.array(p))).max(1)
    for name, highest in (("as drift", ours), ("sharing the calibration set", split)):
        rates = "  ".join(f"delta {d}: {(highest >= -np.log(d)).mean():.4f}" for d in DELTAS)
        print(f"  {calibrated} calibration images, {length} of a stream, n {streams}, {name}: {rates}")


def false_batches(batches: int, calibrated: int, size: int) -> None:
    """Print the share of batches with p <= 0.01 though nothing changes."""
    random, found = np.random.default_rng(1), []
    allowed, known = (calibrated + 1) // 20, {}
    for _ in range(batches):
        scores = random.normal(size=calibrated + size)
        own, new = scores[:calibrated], scores[calibrated:]
        count = int((new > conformal_threshold(own, 0.05).value).sum())
        if count not in known:
            known[count] = flags_p_value([Group(calibrated, allowed, size, count)])
        uniform = kstest(p_values(own, new), "uniform").pvalue
        found.append([known[count], scores_p_value(own, new), binom(size, 0.05).sf(count - 1), uniform])
    rates = (np.array(found) <= 0.01).mean(0)
    names = ("flags", "scores", "flags by a plain binomial test", "p-values against the uniform")
    text = "  ".join(f"{name} {rate:.4f}" for name, rate in zip(names, rates, strict=True))
    print(f"  {calibrated} calibration images, batches of {size}, n {batches}: {text}")


def energies(embeddings: Embeddings) -> dict[str, np.ndarray]:
    """Return scores of the test images of CIFAR-10 and CIFAR-100."""
    detector = example("energy").fit(embeddings.outputs("cifar10", "train"))
    return {name: detector.score(embeddings.outputs(name, "test")) for name in ("cifar10", "cifar100")}


def turning(scores: dict[str, np.ndarray], share: np.ndarray, seed: int) -> np.ndarray:
    """Return the p-values of CIFAR-10 test images of which `share` [N] gives way to CIFAR-100."""
    calibrated = 4000
    random = np.random.default_rng(seed)
    own, other = random.permutation(scores["cifar10"]), random.permutation(scores["cifar100"])
    stream = np.resize(own[calibrated:], len(share))
    odd = random.random(len(share)) < share
    stream[odd] = np.resize(other, odd.sum())
    return online(own[:calibrated], stream, seed)


def delays(scores: dict[str, np.ndarray]) -> None:
    """Print how many images after a change the alarm comes."""
    ways = {"drift": evidence, "power mixture": power_mixture, "Composite Jumper": composite_jumper}
    for share, before in CHANGES:
        shares = np.repeat([0.0, share], [before, min(AFTER, 6000 - before)])
        p = np.array([turning(scores, shares, seed) for seed in range(REPEATS)])
        texts = []
        for name, way in ways.items():
            hit = way(p) >= np.log(100)
            found = np.where(hit.any(1), hit.argmax(1) - before, np.inf)
            early, late = (found < 0).sum(), np.isinf(found).sum()
            texts.append(f"{name} {np.median(found):.0f} (before the change {early}, never {late})")
        print(f"  {share:.0%} CIFAR-100 after {before}, n {REPEATS}: {'  '.join(texts)}")


def classes(embeddings: Embeddings, scores: np.ndarray) -> None:
    """Print the range over classes of the share called OOD, by one threshold and by one for each class."""
    logits = embeddings.outputs("cifar10", "test").need("logits")
    predicted, found = logits.argmax(1), []
    for seed in range(50):
        order = np.random.default_rng(seed).permutation(len(scores))
        own, new = order[:5000][np.argsort(scores[order[:5000]])], order[5000:]
        rule = ByClass.of(scores[own], predicted[own], [str(k) for k in range(10)], 0.05)
        one = scores[new] > conformal_threshold(scores[own], 0.05).value
        by = rule.is_ood(scores[new], predicted[new])
        found.append([[flags[predicted[new] == k].mean() for k in range(10)] for flags in (one, by)])
    means = np.mean(found, 0)
    spreads = np.max(found, 2).mean(0), np.min(found, 2).mean(0)
    for place, name in enumerate(("one threshold", "one for each class")):
        print(
            f"  {name}, alpha 0.05, 5,000 + 5,000 images, 50 splits: mean rate of a class "
            f"{means[place].min():.3f} to {means[place].max():.3f}; of one split {spreads[1][place]:.3f} to "
            f"{spreads[0][place]:.3f}"
        )


def draw(scores: dict[str, np.ndarray], path: str) -> None:
    """Write a figure: the evidence of ten streams that turn into CIFAR-100, and of ten that do not."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    share = np.concatenate([np.zeros(2000), np.linspace(0, 1, 2000), np.ones(500)])
    pyplot.rcParams.update({"svg.fonttype": "none", "font.size": 9})
    figure, (top, low) = pyplot.subplots(
        2, 1, figsize=(7.5, 4.2), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    for label, colour, part in (("turns into CIFAR-100", "#D55E00", share), ("stays", "#0072B2", 0 * share)):
        p = np.array([turning(scores, part, seed) for seed in range(10)])
        highest = evidence(p).reshape(len(p), -1, 25).max(2) / np.log(10)
        for row, line in enumerate(np.minimum(highest, 8)):
            top.plot(
                np.arange(25, len(part) + 1, 25),
                line,
                color=colour,
                linewidth=0.8,
                label=label if row == 0 else None,
            )
    top.axhline(2, color="black", linestyle=":", linewidth=1)
    top.annotate("alarm at delta = 0.01", (20, 2.15))
    top.set(ylabel="evidence", ylim=(-1.5, 8), yticks=range(-1, 9, 3))
    top.set_yticklabels([f"$10^{{{k}}}$" for k in range(-1, 9, 3)])
    top.legend(frameon=False, loc="center left")
    low.fill_between(np.arange(len(share)), share, color="#D55E00", alpha=0.4, linewidth=0)
    low.set(xlabel="images of the stream", ylabel="CIFAR-100", yticks=(0, 1), yticklabels=("0 %", "100 %"))
    for axis in (top, low):
        axis.spines[["top", "right"]].set_visible(False)
    Path(path).write_text(svg(figure, "drift"))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--embeddings", type=Path, help="of the published ResNet-20")
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--figure", help="SVG to write")
    given = parser.parse_args([] if arguments is None else arguments)
    print("false alarms, ever:")
    for calibrated in (100, 1000):
        false_alarms(given.streams, calibrated, 1000)
    print("false alarms of a batch at p <= 0.01:")
    false_batches(given.streams, 1000, 2000)
    if given.embeddings:
        embeddings = read_embeddings(given.embeddings.parent, given.embeddings.stem, 0)
        scores = energies(embeddings)
        print("images from the change to the alarm, median:")
        delays(scores)
        print("called OOD by predicted class:")
        classes(embeddings, scores["cifar10"])
        if given.figure:
            draw(scores, given.figure)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
