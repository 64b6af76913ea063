"""Sets that settings are chosen on share no image with a test set."""

import numpy as np
import pytest

from sslood.auditing.disjoint import check_disjoint
from sslood.core.errors import InputError
from sslood.core.files import save_tensors

SETS = {
    "own": {"role": "id"}, "other": {"role": "near"}, "moved": {"role": "transfer"},
    "tuned": {"role": "tuning"}, "chosen": {"role": "tuning"}, "outliers": {"role": "auxiliary"},
}  # fmt: skip


@pytest.fixture
def images(tmp_path):
    """Write sets of 30 pictures a split, of few grey values, and return them with a function that writes."""
    random = np.random.default_rng(0)
    found = {
        f"{name}.{split}": random.integers(0, 2, (30, 1, 6, 6), np.uint8)
        for name in SETS
        for split in ("validation", "test")
    }

    def write():
        for name in SETS:
            tensors = {f"{split}.images": found[f"{name}.{split}"] for split in ("validation", "test")}
            save_tensors(tmp_path / f"{name}.safetensors", tensors, kind="set", metadata={})
        return tmp_path

    return found, write


def test_sets_without_a_common_image_pass(images):
    found, write = images
    found["outliers.validation"][:] = found["own.test"]  # nothing is chosen on it
    found["tuned.test"][:] = found["own.test"]
    found["own.validation"][0] = found["own.test"][0]
    assert check_disjoint(write(), SETS) == {
        **{"chosen_on": ["tuned", "chosen"], "tested_on": ["own", "other", "moved"]}
    }
    assert check_disjoint(write(), {"own": {"role": "id"}, "other": {"role": "near"}})["chosen_on"] == []


@pytest.mark.parametrize("name", ["own", "other", "moved"])
@pytest.mark.parametrize("tuning", ["tuned", "chosen"])
def test_one_image_is_enough_and_both_places_are_named(images, name, tuning):
    found, write = images
    found[f"{tuning}.validation"][7] = found[f"{name}.test"][21]
    with pytest.raises(InputError) as refused:
        check_disjoint(write(), SETS)
    for part in (
        f"the tuning set {tuning!r} shares 1 of its validation images with the test images of {name!r}",
        "(positions 7 and 21, from 0)",
    ):
        assert part in str(refused.value)


def test_many_images_are_counted_and_the_first_places_listed(images):
    found, write = images
    found["tuned.validation"][:15] = found["own.test"][10:25]
    found["tuned.validation"][15] = found["tuned.validation"][0]
    with pytest.raises(InputError, match=r"16 of its .*positions 0, 1, 2, .*, 9, … and 10, 11, .*, 19, …"):
        check_disjoint(write(), SETS)


def test_a_set_that_is_not_there_is_named(images):
    _, write = images
    with pytest.raises(InputError, match=r"gone.safetensors: no such file; run `dvc repro download`"):
        check_disjoint(write(), {**SETS, "gone": {"role": "far"}})
