"""The table of roles, and what is read from the section `sets`."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from sslood.core.closure import import_closure
from sslood.core.errors import InputError
from sslood.core.files import save_tensors
from sslood.data.sets.roles.roles import (
    OOD_ROLES,
    ROLES,
    SPLITS,
    names_of_roles,
    read_split,
    read_tuning,
    record_role,
    roles_of,
    shifted_sets,
)

SETS = {"a": {"role": "id"}, "b": {"role": "near"}, "c": {"role": "far"}, "d": {"role": "tuning"}}


def test_no_role_contradicts_itself():
    for name, role in ROLES.items():
        for splits in (role.fitted, role.embedded, role.needed):
            assert set(splits) <= set(role.kept), name
        assert set(role.kept) <= set(SPLITS) and role.kept and role.published
        assert "test" not in role.fitted, f"{name}: test images are fitted to or chosen on"
        assert not (role.is_ood and (role.fitted or role.is_tuning or role.is_shifted))
        assert not (role.is_shifted and (role.fitted or role.is_tuning)), f"{name}: is tested on alone"
    assert OOD_ROLES == ("near", "far")


def test_the_table_is_frozen():
    with pytest.raises(TypeError):
        ROLES["other"] = ROLES["far"]
    with pytest.raises(FrozenInstanceError):
        ROLES["far"].kept = SPLITS


@pytest.mark.parametrize("stage", ["pretrain", "train", "energy", "leaveout", "adopt"])
def test_no_training_depends_on_the_roles(stage):
    """A new role must not train anything again."""
    assert not any("roles" in file.parts for file in import_closure(f"stages.{stage}"))


def test_sets_are_told_apart_by_their_roles():
    assert roles_of(SETS, "a", "sets") == ({"b": "near", "c": "far"}, ["d"])
    without = SETS | {"d": {"role": "auxiliary"}}
    assert roles_of(without, "a", "sets") == ({"b": "near", "c": "far"}, [])
    assert names_of_roles(SETS, "sets") == {"a": "id", "b": "near", "c": "far", "d": "tuning"}


def test_shifted_sets_are_neither_ood_nor_tuned_on():
    section = SETS | {"e": {"role": "shifted"}, "f": {"role": "shifted"}}
    assert shifted_sets(section, "sets") == ["e", "f"] and shifted_sets(SETS, "sets") == []
    assert roles_of(section, "a", "sets") == roles_of(SETS, "a", "sets")
    flags = {"is_ood": False, "is_tuning": False, "is_shifted": True}
    assert record_role("shifted") == {"role": "shifted", **flags}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"b": {"role": "nera"}}, r"sets\.b: unknown role 'nera' \(did you mean 'near'\?\); known: id, near"),
        ({"b": {}}, r"sets\.b: unknown role None; known"),
        ({"b": None}, r"sets\.b: must hold keys and values"),
        ({"a": {"role": "transfer"}}, "sets: needs 'a' with role id"),
        ({"b": {"role": "auxiliary"}, "c": {"role": "auxiliary"}}, "a set with role near or far"),
    ],
)
def test_wrong_roles_are_named(changes, words):
    with pytest.raises(InputError, match=words):
        roles_of(SETS | changes, "a", "sets")


def test_a_split_is_read_or_its_absence_named(tmp_path):
    images = np.zeros((3, 1, 4, 4), np.uint8)
    save_tensors(tmp_path / "a.safetensors", {"test.images": images}, kind="set", metadata={"name": "a"})
    read, metadata = read_split(tmp_path, "a", "test")
    assert read.shape == images.shape and metadata["name"] == "a"
    with pytest.raises(InputError, match=r"no tensor 'train\.images'"):
        read_split(tmp_path, "a", "train")
    with pytest.raises(InputError, match="gone.safetensors: no such file; run `dvc repro download`"):
        read_split(tmp_path, "gone", "test")


def test_of_several_tuning_sets_each_counts_as_much(tmp_path):
    """So an AUROC against all of their images is the mean over the sets, as the stage posthoc takes it."""
    for name, count in (("few", 3), ("many", 8)):
        images = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1) + 10 * (name == "many")
        save_tensors(
            tmp_path / f"{name}.safetensors", {"validation.images": images}, kind="set",
            metadata={"name": name},
        )  # fmt: skip
    images, about, words = read_tuning(tmp_path, ["few", "many"])
    assert images.ravel().tolist() == [0, 1, 2, 10, 12, 15] and [one["name"] for one in about] == [
        "few",
        "many",
    ]
    assert words == "few.validation, many.validation"
    assert read_tuning(tmp_path, ["many"])[0].ravel().tolist() == list(range(10, 18))
