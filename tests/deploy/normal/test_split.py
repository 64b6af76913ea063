"""How normal examples are cut into those that teach and those that calibrate."""

import numpy as np
import pytest

from sslood.core.errors import InputError
from sslood.deploy.normal.copies import together
from sslood.deploy.normal.split import LEAST, examples_needed, split_normal


def split(count, alpha=0.05, seed=0, **given):
    return split_normal(count, alpha=alpha, seed=seed, **given)


def test_sides_are_disjoint_and_complete_and_depend_on_the_seed_alone():
    one, same, other = split(500), split(500), split(500, seed=1)
    np.testing.assert_array_equal(np.sort([*one.fit, *one.calibration]), np.arange(500))
    np.testing.assert_array_equal(one.calibration, same.calibration)
    assert one.calibration.tolist() != other.calibration.tolist()
    assert len(one.calibration) == 200 and len(split(300).calibration) == 150  # half, up to FEW
    assert len(split(2000).calibration) == 600  # 30 %
    assert len(split(100_000).calibration) == 2000
    assert len(split(100_000, alpha=0.001).calibration) == 20_000


def test_copies_stay_on_one_side_and_count_once():
    groups = np.concatenate([np.arange(200), np.repeat(np.arange(40), 3)])  # 40 pictures four times
    found = split(320, groups=groups)
    assert not set(groups[found.fit]) & set(groups[found.calibration])
    assert len(set(groups[found.calibration].tolist())) == len(found.calibration) == 100
    unused = set(range(320)) - set(found.fit.tolist()) - set(found.calibration.tolist())
    assert found.unused == len(unused) > 0
    assert {groups[row] for row in unused} <= set(groups[found.calibration].tolist())


def test_every_copy_may_be_the_one_that_counts():
    groups = np.repeat(np.arange(100), 2)
    drawn = [split(200, groups=groups, seed=seed).calibration % 2 for seed in range(20)]
    assert 0.4 < np.concatenate(drawn).mean() < 0.6


def test_classes_calibrate_in_proportion_and_keep_one_to_learn_from():
    labels = np.repeat([0, 1, 2, 3], [200, 100, 98, 2])
    found = split(400, labels=labels)
    counts = np.bincount(labels[found.calibration], minlength=4)
    assert counts.sum() == 200 and abs(counts - [100, 50, 49, 1]).max() <= 1
    assert set(labels[found.fit]) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("count", "alpha", "words"),
    [
        (20, 0.01, "20 pictures are too few for alpha 0.01, which needs 109: 99 that calibrate"),
        (20, 0.01, "give 89 more, or raise alpha to 0.091"),
        (28, 0.05, "give 1 more, or raise alpha to 0.053"),
        (5, 0.05, "from; give 24 more"),
    ],
)  # fmt: skip
def test_too_few_say_how_many_and_what_is_possible(count, alpha, words):
    with pytest.raises(InputError) as error:
        split(count, alpha, what="pictures")
    assert words in str(error.value)


def test_copies_that_do_not_count_are_named():
    says = (
        "300 vectors are too few for alpha 0.05: only 1 is left once copies .* set aside; 29 are needed: 19"
    )
    with pytest.raises(InputError, match=says):
        split(300, 0.05, groups=np.zeros(300, int), what="vectors")
    with pytest.raises(InputError, match="alpha 0.05: only 2 are left once copies"):
        split(4, 0.05, groups=np.arange(4) % 2, what="vectors")


@pytest.mark.parametrize("count", [11, 20, 28, 100])
def test_the_rate_that_is_named_is_the_lowest_possible(count):
    with pytest.raises(InputError) as error:
        split(count, 1e-6)
    lowest = float(str(error.value).rpartition(" ")[2])
    assert len(split(count, lowest).fit) >= LEAST
    with pytest.raises(InputError):
        split(count, lowest - 0.001)
    assert examples_needed(lowest) <= count


def test_copies_do_not_make_few_pictures_many():
    with pytest.raises(
        InputError, match="100 pictures are too few .*: only 10 are left once copies .* give 19 more$"
    ):
        split(100, groups=np.arange(100) % 10, what="pictures")


def test_the_boxes_of_a_picture_stay_together():
    """As do pictures that are copies of it, and their boxes."""
    names = ["a#xywh=0,0,9,9", "b", "a#xywh=5,5,9,9", "c#xywh=0,0,9,9", "c", "d"]
    groups = together(np.array([0, 1, 2, 3, 1, 4]), names)  # b and c are copies
    assert groups[0] == groups[2] and groups[1] == groups[3] == groups[4]
    assert len(set(groups.tolist())) == 3
    np.testing.assert_array_equal(together(np.arange(3), ["a", "b", "c"]), np.arange(3))
