"""Splits that folders of one's own pictures come in, through the command that the pipeline runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.data.sets.layout import lay_out, split_of
from sslood.data.sets.roles.roles import ROLES
from sslood.data.sets.user_images import read_user_images
from tests.data.sets.test_user_images import download


def paint(folder, *places, start=0):
    """Write a plain picture of its own red for each place; return {place: red}."""
    reds = {}
    for red, place in enumerate(places, start=start):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (red, red + 1, 255 - red)).save(path)
        reds[place] = red
    return reds


def reds(out):
    """Return {split: sorted reds of its pictures}, classes."""
    tensors, metadata = load_tensors(out, kind="set")
    found = {split: sorted(tensors[f"{split}.images"][:, 0, 0, 0].tolist()) for split in metadata["splits"]}
    return found, metadata["classes"]


def places(train, test, pattern="{split}/{name}/{n}.png", count=4):
    return [
        pattern.format(split=split, name=name, n=n)
        for split in (train, test)
        for name in ("cat", "dog")
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *[("train", "test"), ("Train", "Test"), ("TRAINING", "TESTING"), ("training", "testing")],
        *[("training_set", "test_set"), ("seg_train", "seg_test"), ("train2017", "test-images")],
        *[("train", "val"), ("Train", "validation"), ("trainset", "valid"), ("train", "dev")],
    ],
)
@pytest.mark.parametrize(
    "pattern", ["{split}/{name}/{n}.png", "{name}/{split}/{n}.png", "all/{split}/{name}/deep/{n}.png"]
)
def test_each_picture_of_an_id_set_lands_in_the_split_it_was_put_in(tmp_path, train, test, pattern):
    colours = paint(tmp_path / "mine", *places(train, test, pattern))
    output, status = download(tmp_path / "out", "id", tmp_path / "mine", "mine")
    assert status == 0, output
    found, classes = reds(tmp_path / "out")
    assert classes == ["cat", "dog"]
    parts = {place: place.split("/") for place in colours}
    assert sorted(found["train"] + found["validation"]) == sorted(
        red for place, red in colours.items() if train in parts[place]
    )
    assert found["test"] == sorted(red for place, red in colours.items() if test in parts[place])
    assert ("serve as test" in output) == (split_of(test) == "validation")
    named = load_tensors(tmp_path / "out")[1]["source"].get("splits")
    assert (named is None) == ((train, test) == ("train", "test"))


def test_all_three_splits(tmp_path):
    names = [f"{split}/{name}/{n}.png" for split in ("Train", "val", "Test") for name in "ab" for n in "123"]
    colours = paint(tmp_path / "mine", *names)
    output, status = download(tmp_path / "out", "id", tmp_path / "mine", "mine")
    assert status == 0, output
    found, _ = reds(tmp_path / "out")
    for split, name in {"train": "Train", "validation": "val", "test": "Test"}.items():
        assert found[split] == [red for place, red in colours.items() if place.startswith(name)]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train/a/1.png", "Training/a/2.png", "test/a/1.png"], "Training and train, which both mean train"),
        (["train/a/1.png", "test/a/1.png", "extra/a/1.png"], "holds test, train beside extra"),
        (["train/a/1.png", "holdout/a/1.png"], "holds train beside holdout"),
        (["test/a/1.png", "cats/1.png"], "holds test beside cats"),
        (["train/a/1.png", "test/a/1.png", "1.png"], "beside loose pictures"),
        (["cats/train/1.png", "cats/test/1.png", "dogs/1.png"], "cats: holds test, train beside dogs"),
        (["cats/train/1.png", "cats/Train/1.png", "cats/test/1.png"], "both mean train"),
    ],
)
@pytest.mark.parametrize("role", ["id", "far", "tuning"])
def test_what_can_be_read_in_two_ways_is_refused_with_what_was_seen(tmp_path, names, words, role):
    paint(tmp_path, *names)
    with pytest.raises(InputError, match=words) as failure:
        read_user_images("mine", tmp_path, ROLES[role])
    assert str(tmp_path) in str(failure.value) and "CSV" in str(failure.value)


@pytest.mark.parametrize(
    ("role", "names", "words"),
    [
        ("far", ["train/1.png"], r"holds train \('train'\), but no test pictures"),
        ("id", ["val/a/1.png", "test/a/1.png"], "but no train pictures"),
        ("auxiliary", ["test/1.png", "val/1.png"], "but no train pictures"),
        ("tuning", ["test/1.png"], "but no validation pictures"),
    ],
)
def test_a_split_that_the_role_needs(tmp_path, role, names, words):
    paint(tmp_path, *names)
    with pytest.raises(InputError, match=words):
        read_user_images("mine", tmp_path, ROLES[role])


@pytest.mark.parametrize("listed", [False, True])
def test_a_tuning_set_takes_no_test_picture(tmp_path, listed):
    colours = paint(tmp_path / "mine", *places("train", "test"))
    place = tmp_path / "mine"
    if listed:
        place = tmp_path / "list.csv"
        place.write_text("path,split\n" + "".join(f"mine/{p},{p.split('/')[0]}\n" for p in colours))
    output, status = download(tmp_path / "out", "tuning", place)
    assert status == 0, output
    found, _ = reds(tmp_path / "out")
    assert sorted(found["train"] + found["validation"]) == list(range(8))
    assert "8 of 16 files are not taken" in output and "test, which this role does not use" in output


@pytest.mark.parametrize(
    "names",
    [
        ["bus/1.png", "train/1.png"],
        ["bus/a/1.png", "train/steam/1.png"],
        ["vehicles/train/1.png", "animals/cat/1.png"],
        ["vehicles/train/1.png", "vehicles/bus/2.png", "animals/1.png"],
        ["set 1/a.png", "set 2/a.png"],
    ],
)
def test_a_class_called_train_is_a_class(names):
    layout = lay_out([tuple(name.split("/")) for name in names], "x")
    assert not layout.names and layout.rest[0][0] == names[0].split("/")[0]


@pytest.mark.parametrize("derived", [True, False])
def test_held_out_classes_of_ones_own_folder(tmp_path, derived):
    """The key folder need not be said twice; test pictures of the held-out class only."""
    colours = paint(
        tmp_path / "mine", *(f"{s}/{c}/{n}.png" for s in ("Train", "Test") for c in "abc" for n in "1234")
    )
    from tests.data.commands import download_words, invoke
    from tests.data.sets.test_user_images import SETTINGS

    id_item = {"role": "id", "source": "folder", "folder": str(tmp_path / "mine")}
    item = {"role": "near", "source": "folder", "derive": "heldout"}
    item |= {} if derived else {"folder": id_item["folder"]}
    settings = SETTINGS | {"heldout": ["b"]}
    result = invoke(download_words(tmp_path / "out", "held", item, settings, "mine", id_item))
    assert result.exit_code == 0, result.output
    found, classes = reds(tmp_path / "out")
    assert classes == ["b"]
    assert found == {"test": [red for place, red in colours.items() if place.startswith("Test/b")]}


NAME = st.sampled_from(["train", "Train", "val", "test", "cats", "dogs", "Testing", "a", "train 2"])


@given(st.sets(st.lists(NAME, max_size=4).map(tuple), max_size=12))
def test_no_picture_is_lost_or_in_two_splits(folders):
    """Whatever the folders: it is refused, or every picture is in the one split that its path names."""
    places = sorted((*folder, f"{n}.png") for n, folder in enumerate(sorted(folders)))
    try:
        layout = lay_out(places, "x")
    except InputError:
        return
    assert sorted(row for rows in layout.splits.values() for row in rows) == list(range(len(places)))
    for split, rows in layout.splits.items():
        for row in rows:
            assert not split or split in map(split_of, places[row])
            assert layout.rest[row][-1] == places[row][-1]
