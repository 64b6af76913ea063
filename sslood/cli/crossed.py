"""Sections of the params that are right each by itself, but not together: found before anything runs.

The stages say the same when they meet it, which may be hours later.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sslood.core.errors import InputError

Placed = Mapping[str, tuple[str, Any]]  # key -> FILE:KEY and value
AUGMENT, SECOND, ALTERNATE = "augment", "second", "alternate"
# roles of sets that have a validation split; a test holds them against the table of roles
VALIDATED = ("id", "tuning", "transfer")


def placed(place: str, section: Mapping[str, Any]) -> Placed:
    """Return the values of a section with their places."""
    return {key: (f"{place}.{key}", value) for key, value in section.items()}


def check_training(settings: Placed, recipe: Placed, own: Placed, size: tuple[str, Any]) -> None:
    """Raise InputError, naming both places, if the views of a training do not suit its settings or images.

    own: a method's or objective's section, whose keys, and those under `augment`, replace the others. size:
    of the images, in pixels.
    """
    alternate = {**settings, **own}.get(ALTERNATE, ("", False))
    for view in _views(recipe, own):
        flip, pad = view.get("flip", ("", 0)), view.get("pad", ("", 0))
        if alternate[1] and flip[1]:
            raise InputError(
                f"{alternate[0]} mirrors every image in turn, and {flip[0]} ({flip[1]:g}) mirrors at random; "
                "set one of them to false, or 0"
            )
        if pad[1] and type(size[1]) is int and pad[1] >= size[1]:  # of another type: another stage says so
            raise InputError(
                f"{pad[0]} is {pad[1]}, a shift that can leave nothing of images of {size[1]} pixels "
                f"({size[0]}); lower it"
            )


def _views(recipe: Placed, own: Placed) -> Iterator[Placed]:
    """Yield what each view of an image goes through."""
    first = dict(recipe)
    if AUGMENT in own:
        first.pop(SECOND, None)
        first |= placed(*own[AUGMENT])
    second = first.pop(SECOND, None)
    yield first
    if second is not None:
        yield {**first, **placed(*second)}


def mismatches(params: Mapping[str, Any], file: str) -> Iterator[str]:
    """Yield a sentence for each value that does not suit another section; each is right by itself."""
    runs = _section(params, "runs")
    yield from _seeds(runs.get("seeds"), f"{file}:runs.seeds")
    folds = _section(params, "leaveout").get("folds")
    if runs.get("leaveout_backbones") and (
        not isinstance(folds, Sequence) or list(folds) != list(range(max(2, len(folds))))
    ):
        yield f"{file}:leaveout.folds must be 0, 1, … without gaps, at least two, found {folds!r}"
    if runs.get("energy_inits"):
        yield from _margins(params, runs, file)
    yield from _tuning(params, runs, file)
    ssdk, shots = _section(params, "ssdk"), _section(params, "embed").get("shots")
    if ssdk.get("per_class") is True and _numbers(ssdk.get("k"), shots) and ssdk["k"] > shots:
        yield (
            f"{file}:ssdk.k is {ssdk['k']}, but {file}:embed.shots keeps {shots} images of a class; lower "
            "the one or raise the other"
        )


def _section(params: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = params.get(key)
    return found if isinstance(found, Mapping) else {}


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _seeds(seeds: Any, where: str) -> Iterator[str]:
    if not isinstance(seeds, Sequence) or isinstance(seeds, str):
        return  # of another type: the stages' options say so
    if not seeds:
        yield f"{where}: must list at least one seed"
    if below := [seed for seed in seeds if _numbers(seed) and seed < 0]:
        yield f"{where}: must be 0 or more, found {below[0]}"


def _tuning(params: Mapping[str, Any], runs: Mapping[str, Any], file: str) -> Iterator[str]:
    """Yield that the set of `tuning` has no validation split, for each stage that would choose on it."""
    name = params.get("tuning")
    role = _section(_section(params, "sets"), str(name)).get("role")
    if role in VALIDATED:
        return
    trained = all(runs.get(key) for key in ("energy_inits", "energy_modes", "outlier_losses"))
    published = _section(params, "leaveout").get("select") == "published"
    for reads, stage in (
        (trained, "`energy` (runs.energy_inits)"),
        (published and runs.get("leaveout_backbones"), "`leaveout` (leaveout.select: published)"),
    ):
        if reads:
            yield (
                f"{file}:tuning names {name!r}, whose role {role!r} has no validation split, on which the "
                f"stage {stage} chooses; name a set with role tuning"
            )


def _margins(params: Mapping[str, Any], runs: Mapping[str, Any], file: str) -> Iterator[str]:
    for loss in runs.get("outlier_losses") or ():
        own = _section(_section(params, "outliers"), loss)
        found = {**_section(params, "energy"), **own}
        m_in, m_out = found.get("m_in", 0), found.get("m_out", 0)
        fixed = found.get("loss") == "energy" and found.get("margins") == "fixed" and "candidates" not in own
        if fixed and _numbers(m_in, m_out) and not float(m_in) < float(m_out):
            place = f"{file}:outliers.{loss}" if {"m_in", "m_out"} & {*own} else f"{file}:energy"
            yield f"{place}.m_in must be below m_out, found {m_in:g} and {m_out:g}"
