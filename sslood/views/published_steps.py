"""Published steps of the image, one for each OOD set, instead of one that is chosen: a row for comparison.

The published code of the ensemble (Vyas et al., arXiv:1809.03576) asks its members at temperature 1000 and
with a step that stands for each network and test set. Whoever sets it has seen the test set, so the row
competes with nobody, as SSD_k's do not.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.core.settings import at_least, near, read_section, typed
from sslood.data.sets.roles.roles import roles_of
from sslood.ood.kit.results import Results, rounded
from sslood.ood.measures.metrics import nan_among, ood_metrics
from sslood.views.ensemble import Setting, Swept

ROW = "eloc_published"
TEMPERATURE = 1000.0  # published; its code lowers the cross-entropy of the predicted class


def read_steps(where: str | None, backbone: str, sets: Mapping[str, Any], id_name: str) -> dict[str, Setting]:
    """Return {OOD set: its setting} of a backbone from the section at FILE:KEY, {} if it names none.

    The section holds {backbone: {OOD set: step in pixels of [0, 1]}}; sets: the section `sets`. InputError,
    naming the key, for a set that is not near or far, or a step that is no number from 0 on.
    """
    section = read_section(where) if where else {}
    steps = section.get(backbone, {})
    if not isinstance(steps, Mapping):
        raise InputError(
            f"{where}.{backbone}: must map OOD sets to steps, found {steps!r}; e.g. {{far: 0.002}}"
        )
    found = {}
    tests, _ = roles_of(sets, id_name, "sets")
    for name, value in steps.items():
        place = f"{where}.{backbone}.{name}"
        if name not in tests:
            raise InputError(f"{place}: no set with role near or far has this name{near(name, tests)}")
        step = typed(float, value, place)
        if not at_least(0).allow(step):
            raise InputError(f"{place} must be {at_least(0)}, found {step!r}")
        found[name] = Setting(TEMPERATURE, step)
    return found


def check_steps(where: str, given: Mapping[str, Any]) -> None:
    """Raise InputError for what is wrong in the section FILE:KEY, beside the other sections of the file.

    given: the values of a command, of which it reads the ID set's name.
    """
    file = where.partition(":")[0]
    sets, backbones = (read_section(f"{file}:{key}") for key in ("sets", "backbones"))
    for name in read_section(where):
        if name not in backbones:
            raise InputError(f"{where}: {name!r} is not among `backbones`{near(name, backbones)}")
        read_steps(where, name, sets, given["id_name"])


def add_published(
    results: Results, model: str, swept: Mapping[str, Swept], steps: Mapping[str, Setting]
) -> None:
    """Add the row to `results`: each OOD set of `steps` against ID images under the set's own setting.

    swept: of the ID set and those of `steps`, the score by setting. An ID image has a score for each OOD set,
    under <id>.<set>; under the ID set's own name is their mean. Raises InputError, naming model and set, if a
    score is NaN.
    """
    prefix, own = f"{model}.{ROW}", []
    metrics = results.models.setdefault(model, {}).setdefault(ROW, {})
    for name, setting in steps.items():
        unrounded = swept[results.id][setting]
        if reason := nan_among({results.id: unrounded, name: swept[name][setting]}):
            raise InputError(f"{model}, {ROW}: {reason}")
        inside, outside = rounded(unrounded, unrounded), rounded(swept[name][setting], unrounded)
        metrics[name] = ood_metrics(inside, outside)
        results.scores |= {f"{prefix}.{name}": outside, f"{prefix}.{results.id}.{name}": inside}
        own.append(inside)
    mean = np.mean(own, axis=0)
    results.scores[f"{prefix}.{results.id}"] = rounded(mean, mean)
    settings = {name: setting._asdict() for name, setting in steps.items()}
    results.chosen[ROW] = {"value": settings, "source": "params: a step for each test set, for comparison"}
