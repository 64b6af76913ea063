"""Rows that combine the scores of other rows of their stage: read from the params, chosen, and added."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from sslood.core.errors import InputError, LeftOut
from sslood.core.settings import Auto, Settings, check_name, near, read_section, strict
from sslood.ood.kit.combining import Combination, Combiner
from sslood.ood.kit.results import PREDICTED, Results, rounded
from sslood.ood.kit.search import Candidates, Held

MOST = 3  # members that are chosen: the further ones fit the tuning set rather than what is unknown
GAIN = 0.001  # of AUROC, by which a further member must help: the last digit of a table
ROOMS = ("posthoc", "stochastic", "network")  # of detectors, each named as its file; none is imported here
# rows of the stages ssd and ssdk, of ensembles and of deep ensembles
ROWS = re.compile(r"ssdk?(_.*)?|eloc.*|member_.*|mean_msp|mutual_information|variation_ratio")


@dataclass(frozen=True)
class CombinationSettings(Settings):
    """One row of the section `combinations`."""

    members: Annotated[
        tuple[str, ...] | Auto,
        "detectors of the stage; auto: at most 3, chosen greedily on ID validation and the tuning sets",
    ] = "auto"
    by: Annotated[
        Combination, "sum: of standardised scores; fisher, simes, cauchy: of p-values among ID validation"
    ] = "sum"


Combinations = Mapping[str, CombinationSettings]


def read_combinations(where: str, detectors: Sequence[str], registry: Iterable[str]) -> Combinations:
    """Return the combinations at FILE:KEY, name -> settings.

    detectors: those that are run; registry: all there are. Raises InputError for a name that a detector or
    a row of any stage has, a member that is unknown, not run, a combination itself or named twice, and for
    fewer than two members.
    """
    found: dict[str, CombinationSettings] = {}
    registry = list(registry)
    section = {str(name): values for name, values in read_section(where).items()}  # a name may be a number
    for name, values in section.items():
        place = f"{where}.{name}"
        if check_name(name, where) in registry or _is_taken(name):
            raise InputError(f"{place}: another row has this name; give the combination another")
        if not isinstance(values, Mapping):
            raise InputError(f"{place}: must hold `members` and `by`, found {values!r}")
        found[name] = strict(CombinationSettings, values, place)
        if found[name].members != "auto":
            _check_members(found[name].members, f"{place}.members", detectors, registry, section)
    return found


def _is_taken(name: str) -> bool:
    """Whether a row of some stage has this name, or may have it: tables would count the two as one."""
    files = (Path(__file__).parents[1] / room / f"{name}.py" for room in ROOMS)
    return name == PREDICTED or ROWS.fullmatch(name) is not None or any(file.is_file() for file in files)


def _check_members(
    members: Sequence[str], where: str, detectors: Sequence[str], registry: Sequence[str], section: Any
) -> None:
    for member in members:
        if member in section:
            raise InputError(f"{where}: {member!r} is a combination itself; name the detectors in it")
        if member not in registry:
            raise InputError(f"{where}: unknown detector {member!r}{near(member, registry)}")
        if member not in detectors:
            raise InputError(f"{where}: {member!r} is not run; add it to the detectors, or take it out here")
    if len(set(members)) < max(2, len(members)):
        raise InputError(f"{where}: must be auto, or two or more different detectors, found {list(members)}")


@dataclass
class Scored:
    """What combinations know of one model: the held-out scores of its detectors, and why others have none.

    model: its name; source: the criterion of a choice, in words. references: their scores of ID validation,
    rounded as those of the tables. known: detectors that were fitted on ID validation, whose scores there
    flatter them: never chosen.
    """

    model: str
    source: str
    held: dict[str, Held] = field(default_factory=dict)
    references: dict[str, np.ndarray] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)

    def add(self, name: str, held: Held, test: np.ndarray, *, on_validation: bool) -> None:
        """Keep the scores of a detector, rounded as those of the tables are; test: its of ID test images.

        Equal scores stay equal only in steps that are the same for both: a choice compares held-out images
        with each other, the tables compare test images with the references.
        """
        self.held[name], self.references[name] = _rounded(held), rounded(held.inside, test)
        self.known |= {name} if on_validation else set()

    @property
    def candidates(self) -> dict[str, Held]:
        """The detectors that may be chosen."""
        return {name: one for name, one in self.held.items() if name not in self.known}


def add_combinations(combinations: Combinations, scored: Scored, results: Results) -> None:
    """Add a row for each combination to `results`, which holds the rows of its members.

    References are the scores of ID validation; a combination that chose one member has its scores. One that
    the model cannot have, or that lacks a tuning set to choose on, is left out with the reason. P-values of
    the references among themselves say nothing of other images, so that those of a combination by p-values
    are not kept; a sum has but their mean and spread from them.
    """
    for name, settings in combinations.items():
        try:
            members = _members(name, settings, scored, results)
            if len(members) == 1:
                results.repeat(scored.model, members[0], name)
                continue
            references = {member: scored.references[member] for member in members}
            scores = {member: results.scores_of(scored.model, member) for member in members}
            found = {
                one: combined(references, {member: own[one] for member, own in scores.items()}, settings.by)
                for one in scores[members[0]]
                if all(one in own for own in scores.values())
            }
            fitted = settings.by != "sum" or not scored.known.isdisjoint(members)
            results.add(scored.model, name, found, on_validation=fitted)
        except LeftOut as reason:
            results.leave_out(reason, scored.model, name)


def _members(name: str, settings: CombinationSettings, scored: Scored, results: Results) -> Sequence[str]:
    """Return the members of a combination, and record them; LeftOut if the model cannot have them."""
    if settings.members == "auto":
        for one, held in scored.candidates.items():
            if reason := held.lacking(results.id):
                raise LeftOut(f"{one}: {reason}")
        members, steps = choose_members(scored.candidates, settings.by)
        source = f"{scored.source}, at most {MOST}, each raising it by {GAIN} or more"
        chosen = CombinationSettings(members, settings.by)
        results.record_choice(chosen, f"{scored.model}.{name}", source, steps)
        return members
    results.record_settings(settings, name)
    for member in settings.members:
        if member not in scored.held:
            raise LeftOut(f"it combines {member}, but {scored.missing[member]}")
    return settings.members


def combined(
    references: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray], by: Combination
) -> np.ndarray:
    """Return the score [N] of detectors together, or of the only one; LeftOut where they cannot be combined.

    references, scores: detector -> scores, of ID images and of the images in question.
    """
    if len(references) == 1:
        return next(iter(scores.values()))
    try:
        return Combiner(references, by).score(scores)
    except InputError as error:
        raise LeftOut(str(error)) from None


def choose_members(held: Mapping[str, Held], by: Combination) -> tuple[tuple[str, ...], Candidates]:
    """Return (members, the steps of the choice with their AUROC), chosen greedily by `Held.auroc`.

    The first is the best detector alone. One more joins while it raises the mean AUROC of the combination by
    `GAIN`, up to `MOST`; equal ones in the order of `held`. Forward selection as in Caruana et al., "Ensemble
    selection from libraries of models" (ICML 2004, doi:10.1145/1015330.1015432), here without replacement and
    with a stopping rule of ours. LeftOut if there is no detector or no tuning set.
    """
    if not held:
        raise LeftOut("the model has no detector to choose from")
    if not all(one.outside for one in held.values()):
        raise LeftOut("no set has role tuning, on which its members would be chosen")
    members: tuple[str, ...] = ()
    steps: Candidates = []
    while len(members) < MOST:
        trials = [(*members, name) for name in held if name not in members]
        aurocs = {trial: _auroc({name: held[name] for name in trial}, by) for trial in trials}
        best = max(aurocs, key=lambda trial: aurocs[trial], default=())
        if not best or aurocs[best] == -1.0:
            break
        steps.append({"members": list(best), "auroc": aurocs[best]})
        if members and aurocs[best] < steps[-2]["auroc"] + GAIN:
            break
        members = best
    return members, steps


def _auroc(held: Mapping[str, Held], by: Combination) -> float:
    """Return the criterion for detectors together; -1 where they cannot be combined."""
    references = {name: one.inside for name, one in held.items()}
    try:
        inside = combined(references, references, by)
        outside = {
            place: combined(references, {name: one.outside[place] for name, one in held.items()}, by)
            for place in next(iter(held.values())).outside
        }
    except LeftOut:
        return -1.0
    return _rounded(Held(inside, outside)).auroc


def _rounded(held: Held) -> Held:
    outside = {name: rounded(scores, held.inside) for name, scores in held.outside.items()}
    return Held(rounded(held.inside, held.inside), outside)
