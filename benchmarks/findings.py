"""What published conclusions depend on, by the scores of two published networks on CIFAR-10.

    python -m benchmarks.findings --data data                  # all parts, some minutes of one core
    python -m benchmarks.findings --data data selection        # one of them

--data: the folder `data` in which the profiles cifar10-resnet20 and cifar10-resnet44 have run, by
`python -m tools.direct audit embed`. No network is trained or asked. Parts:

- selection: settings chosen on each OOD test set instead of on ID validation and corruptions
- overlap: near duplicates and shared classes
- networks: the order of the detectors under the two networks

Brackets are DeLong's 95 % intervals over images, paired where the same images are scored twice. The scores of
all candidates are kept in --folder, so a second call is quick; delete it once the embeddings change.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy.stats import kendalltau
from tqdm import tqdm

from sslood.core.files import load_tensors, save_tensors
from sslood.core.settings import autos, load_params
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.outputs import Embeddings, read_embeddings
from sslood.ood.measures.comparison import Difference, Scores, delong_test, holm
from sslood.ood.measures.intervals import delong_interval
from sslood.ood.measures.metrics import ood_metrics
from tests.kit.registries import DETECTORS

MODELS = ("resnet20", "resnet44")
SETS = ("cifar100", "tiny_imagenet", "textures", "mnist")
KNOWN = "cifar10"
NAMES = (
    "msp max_logit energy entropy gen mahalanobis rmds temperature_scaling kl_matching gmm residual vim "
    "react ash scale dice fdbd neco she nci pnml vra lts gradnorm openmax weighted_energy knn"
).split()
RUNS = click.Path(path_type=Path, exists=True)
Part = Callable[..., None]  # of the runs of all models
WAYS = {"as they are": (0, 0), "no duplicates": (3, 3), "no shared classes": (0, 4), "neither": (3, 7)}


@dataclass(frozen=True)
class Candidates:
    """Scores of a detector at each candidate of its settings, split -> float64 [C, N]; `own`: the chosen one.

    Splits: validation and tuning, on which it was chosen, and the test images of each set by its name.
    """

    name: str
    grid: list[dict]
    scores: Mapping[str, np.ndarray]

    @property
    def own(self) -> int:
        pairs = zip(self.scores["validation"], self.scores["tuning"], strict=True)
        return int(np.argmax([auroc(Scores(*pair)) for pair in pairs]))

    def aurocs(self, name: str, some: slice = slice(None)) -> np.ndarray:
        """Return the AUROC [C] against a set, on some of the images."""
        pairs = zip(self.scores[KNOWN], self.scores[name], strict=True)
        return np.array([auroc(Scores(inside[some], outside[some])) for inside, outside in pairs])

    def at(self, name: str, place: int | None = None) -> Scores:
        """Return the test scores of a candidate, by default the chosen one."""
        place = self.own if place is None else place
        return Scores(self.scores[KNOWN][place], self.scores[name][place])


@dataclass(frozen=True)
class Run:
    """Where things are, and the scores of every detector of one model."""

    data: Path
    folder: Path
    model: str

    @property
    def file(self) -> Embeddings:
        return read_embeddings(self.data / "embeddings/0", self.model, 0)

    def detectors(self, names: Sequence[str] = NAMES) -> list[Candidates]:
        """Return the detectors' scores, those of the folder where they were made before."""
        bar = tqdm(names, desc=self.model, unit="detector", disable=None)
        return [_candidates(self, name) for name in bar]


def detector_of(name: str, **chosen) -> Detector:
    """Return a detector with the settings of params.yaml, and `chosen` in place of those that are auto."""
    kind = DETECTORS[name]
    settings = kind.Settings(**load_params(Path("params.yaml"))["posthoc"].get(name, {}))
    return kind(replace(settings, **chosen))


@cache
def _candidates(run: Run, name: str) -> Candidates:
    path = run.folder / f"{run.model}-{name}.safetensors"
    space, names = DETECTORS[name].space, autos(detector_of(name).settings)
    grid = [dict(zip(names, values, strict=True)) for values in product(*(space[key] for key in names))]
    if not path.exists():
        save_tensors(path, _score(run.file, name, grid), kind="scores", metadata={"grid": grid})
    return Candidates(name, grid, load_tensors(path, kind="scores")[0])


def _score(file: Embeddings, name: str, grid: Sequence[dict]) -> dict[str, np.ndarray]:
    splits = {"validation": (KNOWN, "validation"), "tuning": ("corruptions", "validation")}
    splits |= {key: (key, "test") for key in (KNOWN, *SETS)}
    images = {key: file.outputs(*place) for key, place in splits.items()}
    train, rows = file.outputs(KNOWN, "train"), []
    for chosen in grid:
        detector = detector_of(name, **chosen).fit(train, images["validation"])
        rows.append([detector.score(part) for part in images.values()])
    return {key: np.stack(column) for key, column in zip(images, zip(*rows, strict=True), strict=True)}


def auroc(scores: Scores) -> float:
    return float(ood_metrics(scores.id, scores.ood)["auroc"])


def reversed_pairs(before: Sequence[float], after: Sequence[float]) -> list[tuple[int, int]]:
    """Return the pairs (i, j) of which i was better than j before, and j is better than i after."""
    pairs = combinations(range(len(before)), 2)
    ordered = [(i, j) if before[i] > before[j] else (j, i) for i, j in pairs]
    return [(i, j) for i, j in ordered if before[i] > before[j] and after[i] < after[j]]


def rank(values: Sequence[float], place: int) -> int:
    """Return the rank of a value, 1 for the largest."""
    return 1 + int(np.sum(np.asarray(values) > values[place]))


def significant(pairs: Sequence[tuple[int, int]], before: Sequence[Scores], after: Sequence[Scores]) -> int:
    """Return how many reversed pairs differ in both orders (paired DeLong, Holm over these pairs, 5 %)."""
    both = [max(delong_test(side[i], side[j]).p_value for side in (before, after)) for i, j in pairs]
    return int((holm(both) < 0.05).sum()) if both else 0


def kept(size: int, left_out: np.ndarray, why: np.ndarray, bits: int) -> np.ndarray:
    """Return bool [N]: the images that no reason among `bits` (1 and 2 duplicates, 4 class) leaves out."""
    keep = np.ones(size, bool)
    keep[left_out[(why & bits) > 0]] = False
    return keep


def points(found: Difference) -> str:
    return f"{100 * found.value:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"


def interval(scores: Scores) -> str:
    low, high = delong_interval(scores.id, scores.ood)
    return f"{100 * auroc(scores):.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def show(title: str, head: str, rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table; head: names divided by semicolons."""
    names = [name.strip() for name in head.split(";")]
    lines = ["| " + " | ".join(map(str, line)) + " |" for line in (names, ["---"] * len(names), *rows)]
    print(f"\n{title}\n", *lines, sep="\n", flush=True)


def order(before: Sequence[float], after: Sequence[float], found: Sequence[Candidates]) -> list[str]:
    """Return the cells: reversed pairs, Kendall's tau, the best before and after."""
    best = [found[int(np.argmax(side))].name for side in (before, after)]
    tau = f"{kendalltau(before, after).statistic:.2f}"
    return [str(len(reversed_pairs(before, after))), tau, " → ".join(dict.fromkeys(best))]


def optimism(found: Candidates, name: str) -> tuple[Difference, float, int]:
    """Return (AUROC gained by choosing on this test set, the same chosen on half of it, the choice).

    The second chooses on every other image and is measured on the rest, so it holds no luck with images.
    """
    best, half = (int(found.aurocs(name, slice(0, None, step)).argmax()) for step in (1, 2))
    rest = found.aurocs(name, slice(1, None, 2))
    return delong_test(found.at(name), found.at(name, best)), float(rest[half] - rest[found.own]), best


def selection(runs: Sequence[Run]) -> None:
    for run in runs:
        _selection(run)


def _selection(run: Run) -> None:
    found, rows = run.detectors(), []
    tuned = [place for place, one in enumerate(found) if len(one.grid) > 1]
    cells = {name: [optimism(one, name) for one in found] for name in SETS}
    for place in tuned:
        one = found[place]
        rows.append([one.name, one.grid[one.own], *(points(cells[name][place][0]) for name in SETS)])
    show(f"{run.model}: points gained by choosing on the test set", f"detector; own; {'; '.join(SETS)}", rows)
    rows = []
    for name in SETS:
        gains, halves = (np.array([100 * float(part) for part in column]) for column in zip(
            *((cells[name][p][0].value, cells[name][p][1]) for p in tuned), strict=True))  # fmt: skip
        sides = [[one.at(name) for one in found], []]
        sides[1] = [one.at(name, cell[2]) for one, cell in zip(found, cells[name], strict=True)]
        before, after = ([auroc(scores) for scores in side] for side in sides)
        sure = significant(reversed_pairs(before, after), *sides)
        won = [rank(before, p) - rank([*before[:p], after[p], *before[p + 1 :]], p) for p in tuned]
        sizes = [f"{gains.mean():.2f}", f"{gains.max():.2f}", f"{halves.mean():.2f}"]
        rows.append([name, *sizes, *order(before, after, found), sure, f"{np.mean(won):.1f}", max(won)])
    head = "set; mean; largest; on the other half; reversed; tau; best; significant; ranks won alone; most"
    show(f"{run.model}: {len(tuned)} of {len(found)} detectors have settings", head, rows)


def overlap(runs: Sequence[Run]) -> None:
    for run in runs:
        _overlap(run)


def _overlap(run: Run) -> None:
    audit, found, rows = load_tensors(run.data / "audit.safetensors", kind="audit")[0], run.detectors(), []
    for name in SETS:
        whole = [one.at(name) for one in found]
        before = [auroc(scores) for scores in whole]
        for way, bits in WAYS.items():
            keep = [
                kept(len(scores), audit[f"{key}.left_out"], audit[f"{key}.why"], bit)
                for key, scores, bit in zip((KNOWN, name), (whole[0].id, whole[0].ood), bits, strict=True)
            ]
            some = [Scores(scores.id[keep[0]], scores.ood[keep[1]]) for scores in whole]
            after = [auroc(scores) for scores in some]
            gains = 100 * (np.array(after) - before)
            sure = significant(reversed_pairs(before, after), whole, some)
            sizes = [f"{gains.mean():+.2f}", f"{gains.min():+.2f} to {gains.max():+.2f}"]
            values = [interval(some[NAMES.index(key)]) for key in ("msp", "energy", "knn")]
            gone = [int((~side).sum()) for side in keep]
            rows.append([name, way, *gone, *sizes, *order(before, after, found), sure, *values])
    head = (
        "set; images; ID left out; OOD left out; mean; range; reversed; tau; best; significant; msp; energy; "
    )
    show(f"{run.model}: AUROC gained", head + "knn", rows)


def networks(runs: Sequence[Run]) -> None:
    found, rows = [run.detectors() for run in runs], []
    for name in SETS:
        scores = [[one.at(name) for one in side] for side in found]
        values = [[auroc(pair) for pair in side] for side in scores]
        sure = significant(reversed_pairs(*values), *scores)
        for first, second in ((0, 1), (1, 0)):
            best, top = (int(np.argmax(values[side])) for side in (first, second))
            behind = points(delong_test(scores[second][top], scores[second][best]))
            row = [name, runs[first].model, found[0][best].name, interval(scores[first][best])]
            row += [rank(values[second], best), found[0][top].name, behind]
            rows.append([*row, *order(*values, found[0])[:2], sure])
    head = "set; network; its best; AUROC; rank on the other; best there; behind it by; reversed; tau; "
    show(f"{len(found[0])} detectors", head + "significant", rows)


def command(about: str, parts: Mapping[str, Part], *options: click.Option) -> click.Command:
    """Return the command that runs the parts it is given, or all, on the two networks.

    Each part gets the values of `options` by name.
    """

    def run(chosen: tuple[str, ...], data: Path, folder: Path, **given: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for part in chosen or parts:
            parts[part]([Run(data, folder, model) for model in MODELS], **given)

    params: list[click.Parameter] = [
        click.Argument(["chosen"], nargs=-1, type=click.Choice([*parts])),
        click.Option(["--data"], required=True, type=RUNS, help="Folder `data` of the runs."),
        click.Option(["--folder"], default="scratch/findings", type=click.Path(path_type=Path)),
    ]
    return click.Command("main", params=[*params, *options], callback=run, help=about)


PARTS = {"selection": selection, "overlap": overlap, "networks": networks}
main = command("Print what selection, duplicates and the network change.", PARTS)


if __name__ == "__main__":
    main()
