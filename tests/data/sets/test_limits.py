"""The limits that a set misses: the table against the declarations, and what it says."""

import numpy as np
import pytest

from sslood.core.errors import InputError, LeftOut
from sslood.core.needs import LABELS, Need, check_needs
from sslood.data.sets.limits import BY_ROLE, OOD_NEEDS, check_least, limits_of, table_of
from sslood.data.sets.roles.roles import ROLES
from sslood.nets.methods import classify, leaveout, outliers, variants
from sslood.nets.probing import model as probing
from sslood.ood.measures import intervals
from sslood.ood.ssd.ssdk import SSDkSettings
from tests.kit.registries import LEARNING, NETWORK, OBJECTIVES, objective_class


def test_the_table_is_what_detectors_and_stages_declare():
    """`download` imports none of them: only this test keeps it from telling something else."""
    found = {name: kind().needs for name, kind in (LEARNING | NETWORK).items()}
    found |= {name: objective_class(name).needs for name in OBJECTIVES}
    found |= {"methods": variants.NEEDS}
    found |= {"train": classify.NEEDS, "energy": outliers.NEEDS, "leaveout": leaveout.NEEDS}
    found |= {"probe": probing.NEEDS}
    assert {name: needs for name, needs in found.items() if needs} == BY_ROLE["id"]
    assert OOD_NEEDS == {"interval": intervals.NEEDS, "ssdk": SSDkSettings().needs}
    assert BY_ROLE["tuning"] == BY_ROLE["auxiliary"] == {"energy": outliers.AUXILIARY}
    assert BY_ROLE["mixing"] == {"methods": variants.MIXING}
    assert BY_ROLE["transfer"] == {"probe": probing.NEEDS}
    assert BY_ROLE.keys() == ROLES.keys()


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_as_many_classes_as_the_folds_need(folds):
    least = leaveout.least_classes(folds)
    for fold in range(folds):
        kept, left = leaveout.fold_classes(least, range(folds), fold, 0)
        assert len(kept) >= 2 and left
    with pytest.raises(LeftOut, match=f"needs {least} classes for {folds} folds, there are {least - 1}"):
        leaveout.fold_classes(least - 1, range(folds), 0, 0)


@pytest.mark.parametrize(
    ("need", "labels", "words"),
    [
        (LABELS, [-1, -1], "needs 1 labelled class in train, there are 0"),
        (Need(classes=2), [3, 3, -1], "needs 2 labelled classes in train, there is 1"),
        (Need(per_class=2), [0, 0, 1], "needs 2 train images in the smallest class, there is 1"),
        (Need("test", per_class=3), [-1, -1], "needs 3 test images, there are 2"),
        (Need("test", per_class=2, spare=1), [0, 0, 1, 1], "needs 5 test images, there are 4"),
        (Need(images=4), [0, 1, 1], "needs 4 train images, there are 3"),
        (Need(images=3, classes=2, per_class=1, spare=1), [0, 1, 1], None),
    ],
)
def test_a_need_and_what_lacks(need, labels, words):
    if words is None:
        return check_needs((need,), np.array(labels))
    with pytest.raises(LeftOut) as found:
        check_needs((need,), np.array(labels), where="x: KNN ")
    assert found.value.reason == words and str(found.value) == f"x: KNN {words}"


def test_the_table_names_classes_and_consequences():
    labels = {"test": np.repeat([0, 1, 2], [9, 3, 4])}
    limits = limits_of("far", labels, ["ant", "bee", "cow"])
    assert [list(limit) for limit in limits] == [
        ["test images of classes bee, cow", 3, 5, "left out unless k is smaller: ssdk"]
    ]
    lines = table_of("mine", limits).splitlines()
    assert lines[0].split() == ["set", "too", "few", "count", "needed", "consequence"]
    assert lines[1].startswith("mine  test images of classes bee, cow  3      5 ") and len(lines) == 2
    one = limits_of("near", {"test": np.array([-1])}, [])
    assert [limit[:3] for limit in one] == [("test images", 1, 2), ("test images", 1, 5)]
    assert not limits_of("far", {"test": np.full(6, -1)}, []) and table_of("mine", []) == ""


def test_an_id_set_that_no_number_can_come_from_is_refused():
    labels = {"train": np.array([0, 1]), "validation": np.array([0]), "test": np.array([0, 1])}
    check_least("mine", labels, ["a", "b"])
    with pytest.raises(InputError, match="set 'mine': an ID set needs 2 test images, there is 1; add"):
        check_least("mine", labels | {"test": np.array([0])}, ["a", "b"])
    with pytest.raises(InputError, match="ID train holds no image of class c; raise data.limit, add"):
        check_least("mine", labels, ["a", "b", "c"])
