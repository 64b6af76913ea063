"""What a deployed detector catches: the share of the images of the run's test sets that it calls OOD.

A threshold promises how many ID images are called OOD, and nothing about the others. A detector that
separates nothing keeps that promise too, so its file says what it caught, and whoever uses it is told.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from sslood.core.files import load_tensors
from sslood.core.settings import at_least, between
from sslood.data.sets.roles.roles import OOD_ROLES
from sslood.deploy.inputs import Inputs
from sslood.deploy.thresholds import FEW
from sslood.ood.measures.conformal import Threshold, conformal_threshold, images_needed

FLOOR = 0.5  # share of a set below which a detector must not be relied on
MOST = 2000  # images of a set, at even steps: its standard error is then 1.1 % at most
SHARES = 8  # images from which a share is said
ID = "id"


@dataclass(frozen=True)
class Catch:
    """What was called OOD of one test set, none of whose images the detector was fitted or calibrated on."""

    name: Annotated[str, "of the set"]
    role: Annotated[str, "id, near or far"]
    images: Annotated[int, at_least(1), "number of them that were judged"]
    share: Annotated[float, between(0, 1), "of them that were called OOD; for the ID set, false alarms"]
    control: Annotated[
        float | None, between(0, 1), "share that the artefact control calls OOD at the same rate, if known"
    ] = None

    def __str__(self) -> str:
        return f"{self.share:.0%} of {self.name} ({self.role}, {self.images} image{'s' * (self.images != 1)})"


def measure_catches(
    judge: Callable[[Inputs], np.ndarray],
    tests: Mapping[str, tuple[str, Inputs]],
    control: Mapping[str, Mapping[int, float]],
) -> list[Catch]:
    """Return what is called OOD of each set of `tests` (name -> role, images), of at most MOST images each.

    judge: images -> bool [N]. control: what the artefact control catches of sets, by `read_control`.
    """
    found = []
    for name, (role, inputs) in tests.items():
        part = inputs.at_most(MOST)
        known = control.get(name, {}).get(len(inputs))
        found.append(Catch(name, role, len(part), float(judge(part).mean()), known))
    return found


def control_share(inside: np.ndarray, outside: np.ndarray, alpha: float) -> float:
    """Return the share of `outside` that the artefact control calls OOD at the rate alpha.

    Its direction, rougher or smoother than ID, is the better one, as in the report: the question is what
    could be reached without any content. Raises InputError for too few ID images.
    """
    thresholds = {sign: conformal_threshold(sign * inside, alpha).value for sign in (1, -1)}
    return max(float((sign * outside > value).mean()) for sign, value in thresholds.items())


def read_control(path: Path, id_name: str, alpha: float) -> dict[str, dict[int, float]]:
    """Return {OOD set: {number of its images: share}} of `control_share` from an audit file of this ID set.

    Nothing without such a file, or with too few ID images for the rate alpha.
    """
    if not path.is_file():
        return {}
    arrays, metadata = load_tensors(path, kind="audit")
    if metadata["id"] != id_name or len(arrays[f"{id_name}.artefact"]) < images_needed(alpha):
        return {}
    scores = {name: arrays[f"{name}.artefact"] for name in metadata["sets"]}
    inside = scores.pop(id_name)
    return {name: {len(values): control_share(inside, values, alpha)} for name, values in scores.items()}


def hardest(catches: Sequence[Catch]) -> list[Catch]:
    """Return of each role but the ID set's, near first, the set of which least is caught."""
    roles = [role for role in OOD_ROLES if any(catch.role == role for catch in catches)]
    return [min((one for one in catches if one.role == role), key=lambda one: one.share) for role in roles]


def _amount(one: Catch) -> str:
    """Return the share in words; of so few images that a share would promise too much, their number."""
    return (
        f"{round(one.share * one.images)} of {one.images}"
        if one.images < SHARES
        else f"about {one.share:.0%}"
    )


def in_a_phrase(catches: Sequence[Catch]) -> str:
    """Return what is caught of the hardest sets, for the end of a sentence."""
    worst = hardest(catches)
    if not worst:
        return "what it catches was not measured"
    first, *others = [_amount(one) for one in worst]
    text = f"of pictures like {worst[0].name} it catches {first}"
    text += "".join(f", like {one.name} {share}" for one, share in zip(worst[1:], others, strict=True))
    low = [one.name for one in worst if one.share < FLOOR]
    return f"{text}: DO NOT RELY ON IT for pictures like {' or '.join(low)}" if low else text


def warnings(catches: Sequence[Catch], threshold: Threshold) -> list[str]:
    """Return in sentences why a detector deserves no trust; [] if nothing is known against it."""
    found = []
    for one in catches:
        if one.role == ID:
            error = (one.share * (1 - one.share) / one.images) ** 0.5
            if one.share > threshold.high + 2 * error:
                found.append(
                    f"it calls {one} OOD, where {threshold.high:.1%} was the most to expect: these images "
                    "are not like those that it was calibrated on"
                )
            continue
        if one.share < FLOOR:
            found.append(
                f"it catches {one}, below the floor of {FLOOR:.0%}: most such pictures pass as ID"
                + (", about as many as of ID itself" if one.share <= 2 * threshold.alpha else "")
            )
    beaten = [one for one in catches if one.control is not None and one.control >= one.share]
    if beaten:
        shares = ", ".join(f"{one.control:.0%} of {one.name} (it: {one.share:.0%})" for one in beaten)
        found.append(f"the artefact control, which knows only how rough a picture is, catches {shares}")
    return found


def few_images(threshold: Threshold, ranks: int | None = None, fewest: int | None = None) -> list[str]:
    """Return in a sentence what few calibration images still allow; [] if they are FEW or more.

    ranks: number of images that a combination ranks its detectors among. fewest: of one class, where each has
    a threshold of its own.
    """
    if fewest is not None and fewest < min(FEW, threshold.images):
        return [
            f"a class has only {fewest} calibration images: of those taken for it, no p-value is below "
            f"{1 / (fewest + 1):.2g}, and the share of ID called OOD may be far from that promised"
        ]
    count = threshold.images
    if count >= FEW:
        return []
    ranked = "" if ranks is None else f"; the combination ranks its detectors among {ranks} images only"
    return [
        f"only {count} calibration images: no p-value can be below {1 / (count + 1):.2g}, so a smaller "
        f"--fdr finds nothing, and one near it finds little{ranked}; the share of ID "
        f"called OOD may be {threshold.low:.1%} to {threshold.high:.1%}"
    ]
