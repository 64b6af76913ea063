"""Ensembles of leave-out classifiers, with ODIN's temperature and perturbation.

Vyas et al., "Out-of-Distribution Detection Using an Ensemble of Self Supervised Leave-out Classifiers",
arXiv:1809.03576; Liang, Li and Srikant (ODIN), arXiv:1706.02690. Works on functions from images to logits,
whatever network is behind them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from operator import add
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslood.core.batches import batches, normalised
from sslood.core.errors import InputError
from sslood.core.settings import Settings, above, at_least
from sslood.ood.kit.network_detector import BATCH, Network, exact, widened
from sslood.ood.kit.perturbation import Forward, Target, gradient_signs, perturb
from sslood.ood.kit.tempered import entropy_below_uniform, largest_above_uniform

Progress = Callable[[int], object]
ON_CPU = (
    64  # images at a time there, whose maps stay in the cache: a fifth faster than 256 for a wideresnet-16-2
)


class Setting(NamedTuple):
    """How a member is asked: temperature T, step epsilon in pixels of [0, 1], what the step lowers."""

    temperature: float = 1.0
    epsilon: float = 0.0
    target: Target = "predicted"


PLAIN = Setting()


@dataclass(frozen=True)
class EnsembleSettings(Settings):
    """The section `ensemble` of params.yaml."""

    temperatures: Annotated[tuple[float, ...], above(0), "candidate temperatures T of the logits"]
    epsilons: Annotated[tuple[float, ...], at_least(0), "candidate steps in pixels of [0, 1]"]
    targets: Annotated[
        tuple[Target, ...],
        "candidates for what the step lowers: predicted = cross-entropy of the predicted class, entropy",
    ]
    choose_on: Annotated[
        Literal["tuning", "leftout"],
        "what is to score higher than ID validation: the tuning sets; or leftout: for each member, the "
        "validation images of the classes that it leaves out",
    ]
    precision: Annotated[Literal["float64", "float32"], "of the networks; half would turn signs of gradients"]
    draws: Annotated[
        int, at_least(0), "networks that dropout draws of the first member, row member_mc_dropout; 0 = none"
    ] = 0
    sweep: Annotated[
        bool, "score the test sets with every candidate too, for the figure; nothing is chosen by it"
    ] = False
    fallback: Annotated[
        tuple[float, ...],
        at_least(0),
        "temperature and step of an ensemble that has nothing to choose them on; none: its rows are left out",
    ] = ()

    def _check(self) -> None:
        if self.fallback and (len(self.fallback) != 2 or not self.fallback[0]):
            raise InputError(
                "fallback must be a temperature above 0 and a step, e.g. [1000.0, 0.0], or empty, found "
                f"{list(self.fallback)}"
            )
        if self.draws == 1:
            raise InputError("draws must be 0, or at least 2 to have a mean, found 1")
        for name, example in (("temperatures", 1000.0), ("epsilons", 0.0), ("targets", "predicted")):
            if not getattr(self, name):
                raise InputError(f"{name} must list at least one candidate, e.g. {example}")

    @property
    def candidates(self) -> list[Setting]:
        """Every combination; without a step there is no target, so those with epsilon 0 stand once."""
        return list(
            dict.fromkeys(
                Setting(temperature, epsilon, target if epsilon else "predicted")
                for temperature in self.temperatures
                for epsilon in self.epsilons
                for target in self.targets
            )
        )


@dataclass(frozen=True)
class Member:
    """One classifier: normalised images [N, C, H, W] -> logits [N, K] of the classes `head_classes`.

    mean and std: of each channel, in units of [0, 1]. dtype: of the images. name: in messages and results.
    network: the same as a detector queries it, which the row of MC dropout does.
    """

    forward: Forward
    head_classes: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    dtype: torch.dtype = torch.float32
    name: str = ""
    network: Network | None = None


@dataclass(frozen=True)
class Votes:
    """Largest probability [N] and entropy [N] of one member, or sums of them over members.

    Both are measured from the uniform distribution, max p - 1 / K and H - log K: a constant per member, which
    changes no rank and keeps the digits in which images differ at a high temperature.
    """

    largest: np.ndarray
    entropy: np.ndarray

    def __add__(self, other: "Votes") -> "Votes":
        return Votes(self.largest + other.largest, self.entropy + other.entropy)

    def __getitem__(self, rows: np.ndarray) -> "Votes":
        return Votes(self.largest[rows], self.entropy[rows])

    @property
    def score(self) -> np.ndarray:
        """-sum_k [max_c p_kc - H(p_k)]: the paper's score with our sign, larger = more OOD."""
        return self.entropy - self.largest


class Answers(NamedTuple):
    """What a member says of N images: votes for each setting, and logits [N, K] of the unperturbed images."""

    votes: list[Votes]
    logits: np.ndarray


def votes_of(logits: Tensor, temperature: float) -> Votes:
    """Return the votes of a member from its logits [N, K]."""
    parts = largest_above_uniform(logits, temperature), entropy_below_uniform(logits, temperature)
    return Votes(*(part.cpu().numpy() for part in parts))


def ask(
    member: Member,
    images: np.ndarray,
    settings: Sequence[Setting],
    *,
    device: torch.device | str = "cpu",
    progress: Progress = lambda count: None,
) -> Answers:
    """Return the answers of a member to uint8 images [N, C, H, W] for each setting.

    The images are perturbed by the member's own gradient, at the setting's temperature. All gradients of a
    batch follow from one forward pass, which is also that of the unperturbed images. `progress` is called
    with the number of images done.
    """
    pieces: list[list[Votes]] = [[] for _ in settings]
    plain: list[np.ndarray] = []
    stream = batches(images, ON_CPU if torch.device(device).type == "cpu" else BATCH)
    with exact():
        for batch in normalised(stream, member.mean, member.std, device=device, dtype=member.dtype):
            found = _logits(member, batch, settings)
            plain.append(next(found).cpu().numpy())
            for piece, setting, logits in zip(pieces, settings, found, strict=True):
                piece.append(votes_of(logits, setting.temperature))
            progress(len(batch))
    joined = [Votes(*(np.concatenate([getattr(v, name) for v in parts]) for name in ("largest", "entropy")))
              for parts in pieces]  # fmt: skip
    return Answers(joined, np.concatenate(plain))


def _logits(member: Member, images: Tensor, settings: Sequence[Setting]) -> Iterator[Tensor]:
    """Yield logits [N, K] in float64: of the images, then of each setting."""
    steps = list(dict.fromkeys((s.target, s.temperature) for s in settings if s.epsilon))
    if steps:
        found, logits = gradient_signs(member.forward, images, steps)
        signs = dict(zip(steps, found, strict=True))
    else:
        with torch.inference_mode():
            logits = member.forward(images)
    plain = widened(logits)
    yield plain
    for setting in settings:
        if not setting.epsilon:
            yield plain
            continue
        moved = perturb(images, signs[setting.target, setting.temperature], setting.epsilon, member.std)
        with torch.inference_mode():
            yield widened(member.forward(moved))


def mean_probabilities(members: Sequence[Member], logits: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """Return the members' mean softmax probabilities [N, classes]; a member gives 0 to what it left out.

    `logits`: [N, K] of each member, for its own classes. Each class is left out by one member of a whole
    leave-out ensemble, so the largest mean is at most (members - 1) / members. Raises InputError if one is
    NaN.
    """
    total = np.zeros((len(logits[0]), classes))
    for member, own in zip(members, logits, strict=True):
        total[:, list(member.head_classes)] += torch.from_numpy(own).softmax(1).numpy()
    if np.isnan(total).any():
        raise InputError("the ensemble's probabilities are NaN; look at the training of its members")
    return total / len(members)


def score_rows(
    members: Sequence[Member], tempered: Sequence[Votes] | None, logits: Sequence[np.ndarray], classes: int
) -> dict[str, np.ndarray]:
    """Return detector -> scores [N], larger = more OOD; `tempered`: votes of each member, chosen setting.

    eloc: the paper's score; eloc_max and eloc_entropy: its halves; eloc_k: of the first k members alone;
    eloc_noodin: with T = 1 and epsilon = 0; member_msp, member_energy, member_odin: of the first member
    alone; mean_msp: 1 less the largest mean probability. Without `tempered`, those that need no setting.
    """
    rows: dict[str, np.ndarray] = {}
    if tempered is not None:
        *fewer, whole = accumulate(tempered, add)
        rows |= {"eloc": whole.score, "eloc_max": -whole.largest, "eloc_entropy": whole.entropy}
        rows |= {f"eloc_{count}": part.score for count, part in enumerate(fewer, 1)}
        rows["member_odin"] = -tempered[0].largest
    plain = [votes_of(torch.from_numpy(own), 1.0) for own in logits]
    rows["eloc_noodin"] = sum(plain[1:], plain[0]).score
    rows["member_msp"] = -plain[0].largest
    rows["member_energy"] = -torch.from_numpy(logits[0]).logsumexp(1).numpy()
    rows["mean_msp"] = 1 - mean_probabilities(members, logits, classes).max(1)
    return rows


def rows_left_out(members: int) -> list[str]:
    """Return the names of the rows that need a chosen setting."""
    return ["eloc", "eloc_max", "eloc_entropy", *(f"eloc_{k}" for k in range(1, members)), "member_odin"]


Swept = dict[Setting, np.ndarray]  # the ensemble's score [N] of a set's images by setting


class Evaluated(NamedTuple):
    """Of each set: rows of `score_rows`, each member's plain logits, and the score by every setting asked."""

    rows: dict[str, dict[str, np.ndarray]]
    logits: dict[str, list[np.ndarray]]
    swept: dict[str, Swept]


def evaluate(
    members: Sequence[Member],
    setting: Setting | None,
    tests: Mapping[str, np.ndarray],
    *,
    classes: int,
    also: Mapping[str, Iterable[Setting]] = MappingProxyType({}),
    device: torch.device | str = "cpu",
    progress: Progress = lambda count: None,
) -> Evaluated:
    """Return what the members say of uint8 images of `tests` under the chosen setting, and under `also`.

    also: more settings of each set, by its name. Raises InputError, naming the set, as `score_rows` does.
    """
    rows, logits, swept = {}, {}, {}
    for name, images in tests.items():
        asked = list(dict.fromkeys([*([setting] if setting else []), *also.get(name, ())]))
        answers = [ask(member, images, asked, device=device, progress=progress) for member in members]
        logits[name] = [answer.logits for answer in answers]
        tempered = [answer.votes[0] for answer in answers] if setting else None
        try:
            rows[name] = score_rows(members, tempered, logits[name], classes)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        sums = [reduce(add, votes) for votes in zip(*(answer.votes for answer in answers), strict=True)]
        swept[name] = {one: votes.score for one, votes in zip(asked, sums, strict=True)}
    return Evaluated(rows, logits, swept)
