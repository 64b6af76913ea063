"""Tiny ImageNet's halves: no class is both trained against and tested on."""

import numpy as np
import pytest

from sslood.core.errors import InputError
from sslood.data.sets.formats import tiny_imagenet
from sslood.data.sets.roles.roles import ROLES
from sslood.data.sets.source import SetSettings, source_named
from sslood.data.sources.tiny_imagenet_halves import OUTLIERS, half


def folder_of(tmp_path, wnids, pictures=2):
    """Write the lists and empty pictures of some classes; one validation picture of each."""
    (tmp_path / "val").mkdir()
    (tmp_path / "wnids.txt").write_text("\n".join(reversed(wnids)))
    (tmp_path / "words.txt").write_text("".join(f"{wnid}\tname of {wnid}, other\n" for wnid in wnids))
    rows = [f"val_{at}.JPEG\t{wnid}\t0\t0\t1\t1\n" for at, wnid in enumerate(wnids)]
    (tmp_path / "val/val_annotations.txt").write_text("".join(rows))
    for wnid in set(wnids) & set(OUTLIERS):
        (tmp_path / f"train/{wnid}/images").mkdir(parents=True)
        for number in range(pictures):
            (tmp_path / f"train/{wnid}/images/{wnid}_{number}.JPEG").touch()
    return {"x": tmp_path}


def test_the_halves_share_no_class(tmp_path):
    others = [f"n1{number:07}" for number in range(3)]
    files = folder_of(tmp_path, sorted([*OUTLIERS, *others]))
    train, test = (half(files, split, {}) for split in ("train", "test"))
    names = {wnid: f"name of {wnid}" for wnid in [*OUTLIERS, *others]}
    assert {train.classes[label] for label in train.labels} == {names[wnid] for wnid in OUTLIERS}
    assert [test.classes[label] for label in test.labels] == [names[wnid] for wnid in others]
    for path, label in zip(train.images, train.labels, strict=True):
        assert train.classes[label] == names[path.parent.parent.name]


def test_a_damaged_copy_and_a_wrong_role_are_named(tmp_path):
    files = folder_of(tmp_path, OUTLIERS[1:])
    with pytest.raises(InputError, match=f"wnids.txt: lacks {OUTLIERS[0]}; fetch or unpack it again"):
        half(files, "train", {})
    (tmp_path / "wnids.txt").write_text("\n".join(OUTLIERS))
    with pytest.raises(InputError, match=f"{OUTLIERS[0]}/images: no pictures of this class"):
        half(files, "train", {})
    source = source_named("tiny_imagenet_halves", "sets.x")
    for role in ("id", "transfer", "tuning"):
        with pytest.raises(InputError, match="give it role auxiliary, near or far"):
            source.read("x", ROLES[role], SetSettings(role=role, source="tiny_imagenet_halves"))


def test_the_real_halves(mirror):
    """OUTLIERS are the classes at even places, which the mirror holds training images of."""
    files = {"x": mirror / "tiny-imagenet-200"}
    wnids = sorted((files["x"] / "wnids.txt").read_text().split())
    assert wnids[::2] == OUTLIERS == sorted(path.name for path in (files["x"] / "train").iterdir())
    train, test = (half(files, split, {}) for split in ("train", "test"))
    assert np.bincount(train.labels, minlength=200).tolist() == [100, 0] * 100
    assert np.bincount(test.labels, minlength=200).tolist() == [0, 50] * 100
    whole = tiny_imagenet(files, "test", {})
    assert train.classes == test.classes == whole.classes
    assert set(test.images) == {
        path for path, label in zip(whole.images, whole.labels, strict=True) if label % 2
    }
