"""Drawn pictures as a folder in ImageNet's layout, read back as a user's folder is."""

import numpy as np
import pytest
from PIL import Image

from sslood.core.errors import InputError
from sslood.data.sets.roles.roles import ROLES
from sslood.data.sets.user_images import read_user_images
from sslood.data.sources.letters import LETTERS
from tools.drawn import draw_folder


def test_a_folder_of_letters_is_read_as_an_id_set(tmp_path):
    assert draw_folder("letters", 6 * 23, 12, 3, tmp_path / "x") == len(LETTERS) == 23
    splits, _ = read_user_images("x", tmp_path / "x", ROLES["id"])
    assert {name: len(part.labels) for name, part in splits.items()} == {"train": 115, "test": 23}
    train = splits["train"]
    assert [name[3:] for name in train.classes] == list(LETTERS)
    assert (np.bincount(train.labels) == 5).all() and (np.bincount(splits["test"].labels) == 1).all()
    with Image.open(train.images[0]) as picture:
        assert picture.size == (12, 12) and picture.mode == "RGB"
    assert not list(tmp_path.glob("*.partial"))


def test_the_same_letters_come_out_every_time_and_others_in_each_split(tmp_path):
    left = tmp_path / "b.partial" / "train" / "00_a" / "99999.png"  # by a run that was killed
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of more pictures")
    for name in ("a", "b"):
        draw_folder("letters", 138, 12, 1, tmp_path / name)
    files = {
        name: {
            file.relative_to(tmp_path / name): file.read_bytes() for file in (tmp_path / name).rglob("*.png")
        }
        for name in ("a", "b")
    }
    assert files["a"] == files["b"] and len(files["a"]) == 138
    parts = [
        {content for file, content in files["a"].items() if file.parts[0] == part}
        for part in ("train", "val")
    ]
    assert not parts[0] & parts[1]


def test_what_cannot_be_drawn_is_named(tmp_path):
    with pytest.raises(InputError, match="'digits' draws no pictures with classes; take one of .*letters"):
        draw_folder("digits", 138, 12, 1, tmp_path / "x")
    with pytest.raises(InputError, match="--count 137 is too few for 23 classes; take 138 or more"):
        draw_folder("letters", 137, 12, 1, tmp_path / "x")
    with pytest.raises(InputError, match="is there already"):
        draw_folder("letters", 138, 12, 1, tmp_path)
