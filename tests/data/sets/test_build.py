"""Set files from end to end, through the command that the pipeline runs."""

import hashlib
import math
import statistics
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler

from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.data.sets.build import statistics_of
from sslood.data.sets.listing import listing
from sslood.data.sets.source import all_sources
from tests.data.commands import download_words, plain_command

DIGITS = {
    "id": "digits", "size": 16, "channels": 1, "validation": 0.1, "count": 80, "limit": 0, "seed": 0,
    "heldout": [8, 9], "test": 0.3,
}  # fmt: skip
COLOUR = {**DIGITS, "size": 32, "channels": 3, "heldout": []}


def download(out, name, role, **settings):
    """Run the command as dvc.yaml does and return (tensors, metadata).

    source: that of the set, by default of its name. id_source, id_folder: of the ID set, if it is another.
    """
    settings = {**DIGITS, **settings}
    id_name = settings.pop("id")
    item = {"role": role, "source": settings.pop("source", name)}
    item |= {key: settings.pop(key) for key in ("folder", "derive", "raster") if key in settings}
    id_item = {"role": "id", "source": settings.pop("id_source", id_name)}
    id_item |= {"folder": folder} if (folder := settings.pop("id_folder", None)) else {}
    words = download_words(out, name, item, settings, id_name, item if id_name == name else id_item)
    result = CliRunner().invoke(plain_command(), words, catch_exceptions=False, standalone_mode=False)
    tensors, metadata = load_tensors(out, kind="set")
    notes = metadata["source"].get("notes", [])
    lines = result.output.splitlines()[len(notes) :]  # one, and the table of limits
    assert len(lines) == 1 + bool(limits := metadata.get("limits", [])) + len(limits)
    assert lines[0].startswith(f"Wrote {out}: {name}, ")
    return tensors, metadata


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("street", {"role": "far", "source": "imagenet"}),
        ("image", {"role": "far", "source": "imagenet"}),
        ("train", {"role": "far", "source": "imagenet"}),
        ("mine", {"role": "id", "source": "imagenet", "id": "mine"}),
        ("odd", {"role": "tuning", "source": "imagenet", "id_source": "imagenet", "derive": "corruptions"}),
    ],
)
def test_what_cannot_be_obtained_names_the_set_beside_its_source(tmp_path, monkeypatch, name, settings):
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SSLOOD_DATA_MIRROR", raising=False)
    with pytest.raises(InputError, match=f"^sets.{name}: set 'imagenet' cannot be obtained"):
        download(tmp_path / "x", name, **settings)


def test_a_failure_that_names_the_set_names_it_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SSLOOD_DATA_MIRROR", raising=False)
    with pytest.raises(InputError, match="^set 'imagenet' cannot be obtained"):
        download(tmp_path / "x", "imagenet", "far")


HELDOUT = {"source": "digits", "derive": "heldout"}
CORRUPTIONS = {"source": "digits", "derive": "corruptions"}
SHIFTED = {"source": "digits", "derive": "common_corruptions"}


def test_digits_are_cut_without_overlap_and_in_proportion(tmp_path):
    tensors, metadata = download(tmp_path / "x", "digits", "id")
    index = {split: tensors[f"{split}.index"] for split in ("train", "validation", "test")}
    kept = np.flatnonzero(load_digits().target < 8)
    assert np.array_equal(np.sort(np.concatenate(list(index.values()))), kept)
    assert metadata["splits"] == {split: len(rows) for split, rows in index.items()}
    assert len(index["test"]) == round(0.3 * len(kept))
    for split, rows in index.items():
        assert np.array_equal(load_digits().target[rows], tensors[f"{split}.labels"])
        share = np.bincount(tensors[f"{split}.labels"]) / len(rows)
        assert np.abs(share - np.bincount(load_digits().target[kept]) / len(kept)).max() < 0.01
    assert metadata["classes"] == list("01234567") and tensors["train.images"].shape[1:] == (1, 16, 16)
    train = tensors["train.images"] / 255
    assert np.isclose(metadata["mean"], train.mean()) and np.isclose(metadata["std"], train.std())


def test_mean_and_spread_have_no_rounding_but_of_the_result():
    """One bit that differs between processors would change every network after it."""
    random = np.random.default_rng(0)
    for count in range(1, 30):
        images = random.integers(256, size=(count, 1, 5, 5), dtype=np.uint8)
        exact = [Fraction(int(value), 255) for value in images.ravel()]
        expected = [float(statistics.mean(exact))], [math.sqrt(statistics.pvariance(exact))]
        assert statistics_of(images) == expected


def test_a_channel_that_is_the_same_everywhere_is_left_as_it_is():
    """Divided by 1, as scikit-learn's scaler does; where no channel varies, there is nothing to learn."""
    images = np.random.default_rng(0).integers(256, size=(20, 3, 5, 5), dtype=np.uint8)
    images[:, 2] = 7
    mean, std = statistics_of(images)
    scaler = StandardScaler().fit(images.transpose(0, 2, 3, 1).reshape(-1, 3) / 255)
    np.testing.assert_allclose(mean, scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(std, scaler.scale_, rtol=1e-12)
    images[:, :2] = 9
    with pytest.raises(InputError, match="set 'mine': its training images are all of one colour"):
        statistics_of(images, "mine")


def test_a_drawn_set_to_train_with_shares_no_image_with_one_to_test_on(tmp_path):
    for role in ("auxiliary", "mixing"):
        tensors, metadata = download(tmp_path / role, "fractals", role)
        assert metadata["splits"] == {"train": 80} and "test.images" not in tensors
    tests = download(tmp_path / "far", "fractals", "far")[0]["test.images"]
    assert not {image.tobytes() for image in tests} & {image.tobytes() for image in tensors["train.images"]}


def test_a_set_to_transfer_to_has_all_its_classes_and_splits(tmp_path):
    tensors, metadata = download(tmp_path / "x", "digits", "transfer", id="cifar10")
    assert metadata["classes"] == list("0123456789")  # what is held out concerns the ID set
    assert sum(metadata["splits"].values()) == 1797 and len(metadata["splits"]) == 3
    assert len(np.unique(tensors["train.labels"])) == 10


def test_digits_are_enlarged_by_the_chain(tmp_path):
    tensors, _ = download(tmp_path / "x", "digits", "id")
    original = load_digits().images[tensors["test.index"][5]]
    grey = Image.fromarray(np.rint(original * 255 / 16).astype(np.uint8))
    assert np.array_equal(
        tensors["test.images"][5, 0], np.asarray(grey.resize((16, 16), Image.Resampling.BILINEAR))
    )


def test_heldout_digits_are_the_other_classes(tmp_path):
    tensors, metadata = download(tmp_path / "x", "digits_heldout", "near", **HELDOUT)
    assert metadata["classes"] == ["8", "9"] and "mean" not in metadata
    assert np.array_equal(tensors["test.index"], np.flatnonzero(load_digits().target >= 8))


def test_corruptions_use_no_test_image(tmp_path):
    """Every image is used at least once (count 2,000); none of them may come from a test split."""
    known, _ = download(tmp_path / "id", "digits", "id")
    tensors, metadata = download(tmp_path / "x", "corruptions", "tuning", count=2000, **CORRUPTIONS)
    assert set(metadata["splits"]) == {"train", "validation"}
    inversion = metadata["classes"].index("inversion")
    for split in ("train", "validation"):
        rows = np.flatnonzero(tensors[f"{split}.labels"] == inversion)
        base = known[f"{split}.images"][tensors[f"{split}.index"][rows]]
        found = tensors[f"{split}.images"][rows]
        assert ((found == base) | (found == 255 - base)).all()  # so `index` does point into that split
        assert np.bincount(tensors[f"{split}.labels"]).tolist() == [250] * 8


def test_common_corruptions_are_the_id_test_images_in_their_order(tmp_path):
    known, about = download(tmp_path / "id", "digits", "id")
    tensors, metadata = download(tmp_path / "x", "digits_c", "shifted", **SHIFTED)
    for key in ("labels", "index"):
        np.testing.assert_array_equal(tensors[f"test.{key}"], known[f"test.{key}"])
    assert metadata["classes"] == about["classes"] and set(metadata["splits"]) == {"test"}
    assert metadata["licence"] == "that of the ID set" and "Dietterich" in metadata["citation"]
    one, other = (
        images["test.images"].reshape(len(tensors["test.index"]), -1) for images in (known, tensors)
    )
    alike = [np.corrcoef(a, b)[0, 1] for a, b in zip(one.astype(float), other.astype(float), strict=True)]
    assert min(alike) > 0.5 and np.median(alike) > 0.95, "each is still the picture it was made from"
    assert (one != other).any(1).mean() > 0.9  # of noise that hits one pixel of a hundred, some hits none


def test_another_source_of_the_id_classes_gets_their_labels(tmp_path):
    """Found by name; what is no ID class, or is held out, is left out with a note."""
    pictures(tmp_path / "mine", ["cats", "dogs", "eels"])
    pictures(tmp_path / "new", ["Dogs", "cats", "eels", "gnus"], 3)
    place = {"source": "folder", "id_source": "folder", "id_folder": str(tmp_path / "mine")}
    settings = {**COLOUR, **place, "id": "mine", "heldout": ["eels"], "folder": str(tmp_path / "new")}
    tensors, metadata = download(tmp_path / "x", "new", "shifted", **settings)
    assert metadata["classes"] == ["cats", "dogs"]
    assert tensors["test.labels"].tolist() == [1] * 3 + [0] * 3
    assert metadata["source"]["notes"] == ["left out, being no ID classes: eels, gnus"]
    pictures(tmp_path / "flat", [""], 4)
    tensors, metadata = download(
        tmp_path / "y", "flat", "shifted", **settings | {"folder": f"{tmp_path}/flat"}
    )
    assert tensors["test.labels"].tolist() == [-1] * 4, "pictures without labels count as ID all the same"
    pictures(tmp_path / "others", ["gnus"], 2)
    words = r"none of its classes \(gnus\) is one of the ID set's \(cats, dogs\); name its classes"
    wrong(words, tmp_path / "z", "others", "shifted", **settings | {"folder": str(tmp_path / "others")})


def test_a_class_of_the_very_name_of_an_id_class_comes_before_one_of_other_capitals(tmp_path):
    pictures(tmp_path / "mine", ["Cat", "cat", "dog"])
    pictures(tmp_path / "new", ["Cat", "cat", "DOG"], 2)
    place = {"source": "folder", "id_source": "folder", "id_folder": str(tmp_path / "mine")}
    settings = {**COLOUR, **place, "id": "mine"}
    tensors, metadata = download(tmp_path / "x", "new", "shifted", **settings, folder=str(tmp_path / "new"))
    assert metadata["classes"] == ["Cat", "cat", "dog"]
    assert tensors["test.labels"].tolist() == [0, 0, 2, 2, 1, 1]  # Cat, DOG, cat, as files sort
    pictures(tmp_path / "unclear", ["CAT", "dog"], 2)
    words = r"set 'unclear': its class 'CAT' could be Cat or cat of the ID set; name it exactly like one"
    wrong(words, tmp_path / "y", "unclear", "shifted", **settings, folder=str(tmp_path / "unclear"))


@pytest.mark.parametrize("name", ["digits", "letters", "photos", "blobs", "corruptions", "digits_c"])
def test_same_bytes_twice(tmp_path, name):
    role = {"digits": "id", "corruptions": "tuning", "digits_c": "shifted"}.get(name, "far")
    more = {"corruptions": CORRUPTIONS, "digits_c": SHIFTED}.get(name, {})
    for out in ("a", "b"):
        download(tmp_path / out, name, role, **more)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    download(tmp_path / "c", name, role, seed=1, **more)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_limit_keeps_classes_in_proportion_and_splits_apart(tmp_path):
    full, _ = download(tmp_path / "full", "digits", "id")
    cut, metadata = download(tmp_path / "cut", "digits", "id", limit=80)
    assert metadata["splits"] == {"train": 80, "validation": 80, "test": 80}
    for split in metadata["splits"]:
        assert np.abs(np.bincount(cut[f"{split}.labels"]) - 10).max() <= 1
        assert set(cut[f"{split}.index"].tolist()) <= set(full[f"{split}.index"].tolist())


def test_cifar10_from_the_mirror(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(mirror))
    tensors, metadata = download(tmp_path / "x", "cifar10", "id", **{**COLOUR, "id": "cifar10"})
    assert metadata["splits"] == {"train": 45000, "validation": 5000, "test": 10000}
    assert np.bincount(tensors["validation.labels"]).tolist() == [500] * 10
    assert np.allclose(metadata["mean"], [0.4914, 0.4822, 0.4465], atol=1e-3)  # the well-known means
    assert np.allclose(metadata["std"], [0.2470, 0.2435, 0.2616], atol=1e-3)


def test_real_far_sets_from_the_mirror(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(mirror))
    for name, classes in (("mnist", 10), ("textures", 10), ("tiny_imagenet", 200), ("cifar100", 100)):
        settings = {**COLOUR, "id": "cifar10", "limit": 400}
        tensors, metadata = download(tmp_path / name, name, "far", **settings)
        assert tensors["test.images"].shape == (400, 3, 32, 32) and len(metadata["classes"]) == classes
        assert np.bincount(tensors["test.labels"], minlength=classes).min() >= 1
    mnist = load_tensors(tmp_path / "mnist")[0]["test.images"]
    assert (mnist[:, 0] == mnist[:, 1]).all()


def pictures(folder, names, count=6):
    for position, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            shape = (20 + number, 30, 3)
            array = np.random.default_rng(10 * position + number).integers(0, 256, shape, np.uint8)
            Image.fromarray(array).save(folder / name / f"{number}.png")


def test_own_folder_as_ood_and_as_id(tmp_path):
    pictures(tmp_path / "mine", ["cats", "dogs"])
    settings = {**COLOUR, "source": "folder", "folder": str(tmp_path / "mine"), "validation": 0.25}
    tensors, metadata = download(tmp_path / "a", "my_pictures", "far", **settings)
    assert metadata["splits"] == {"test": 12} and metadata["classes"] == ["cats", "dogs"]
    tensors, metadata = download(tmp_path / "b", "my_pictures", "id", **{**settings, "id": "my_pictures"})
    assert metadata["splits"] == {"train": 6, "validation": 2, "test": 4}
    settings |= {"id": "my_pictures", "id_source": "folder", "id_folder": settings.pop("folder")}
    derived = download(tmp_path / "c", "corruptions", "tuning", derive="corruptions", **settings)
    assert derived[1]["splits"]["train"] == 80 and derived[1]["licence"] == "that of the ID set"


def test_own_folder_with_published_splits(tmp_path):
    pictures(tmp_path / "mine/train", ["cats", "dogs"], 10)
    pictures(tmp_path / "mine/test", ["cats", "dogs"], 3)
    place = {"source": "folder", "folder": str(tmp_path / "mine")}
    settings = {**COLOUR, **place, "id": "mine", "id_source": "folder", "id_folder": place["folder"]}
    assert download(tmp_path / "a", "mine", "id", **settings)[1]["splits"] == {
        "train": 18,
        "validation": 2,
        "test": 6,
    }
    assert download(tmp_path / "b", "other", "far", **settings)[1]["splits"] == {"test": 6}


def wrong(message, out, *args, **settings):
    with pytest.raises(InputError, match=message) as failure:
        download(out, *args, **settings)
    assert not out.exists() and "\n" not in str(failure.value)


def test_wrong_input_is_one_sentence(tmp_path):
    out = tmp_path / "x"
    near = r"sets.leters: unknown source 'leters' \(did you mean 'letters'\?\); known: .*letters.*folder"
    wrong(near, out, "leters", "far")
    wrong("sets.letters: unknown role 'faar'", out, "letters", "faar")
    wrong("draws a single split, so it cannot be the ID set", out, "letters", "id", id="letters")
    wrong("draws a single split, so it needs role near, far, auxiliary or mixing", out, "letters", "tuning")
    wrong("only a test split", out, "textures", "id", id="textures")
    wrong("exactly the set named in `id`", out, "letters", "id")
    wrong("exactly the set named in `id`", out, "digits", "far")
    wrong("classes.heldout", out, "digits", "id", heldout=["eight"])
    wrong("classes.heldout", out, "digits_heldout", "near", heldout=[], **HELDOUT)
    wrong("one or more remain", out, "digits", "id", heldout=list("0123456789"))
    folder = {"source": "folder", "folder": str(tmp_path / "nowhere")}
    wrong("does not exist; correct `sets.mine.folder`", out, "mine", "far", **folder)
    (tmp_path / "empty").mkdir()
    wrong("no image", out, "mine", "far", **folder | {"folder": str(tmp_path / "empty")})
    pictures(tmp_path / "one", ["cats"], 3)
    folder |= {"folder": str(tmp_path / "one"), "heldout": [], "id": "mine"}
    wrong("'mine': split validation is empty; add pictures", out, "mine", "id", **folder)


@pytest.mark.parametrize(
    ("message", "name", "role", "settings"),
    [
        ("cannot have role 'id'", "x", "id", {**HELDOUT, "id": "x"}),
        ("cannot have role 'transfer'", "x", "transfer", HELDOUT),
        ("write source: digits", "x", "near", {**HELDOUT, "source": "letters"}),
        ("whose folder is another", "x", "near", {**HELDOUT, "folder": "/elsewhere"}),
        ("give them role tuning", "x", "far", CORRUPTIONS),
        ("only a test split", "x", "tuning", {**CORRUPTIONS, "source": "blobs", "id_source": "blobs"}),
        ("source 'blobs' does not take 'raster'", "blobs", "far", {"raster": 8}),
        ("source 'blobs' does not take 'folder'", "blobs", "far", {"folder": "/x"}),
        ("needs the key 'folder'", "mine", "far", {"source": "folder"}),
        (
            "derive: must be one of heldout, corruptions, common_corruptions or null",
            "x",
            "near",
            {**HELDOUT, "derive": "held"},
        ),
        ("common_corruptions, which keep the ID classes, and role shifted go together", "x", "near", SHIFTED),
        ("it has derive 'heldout' and role 'shifted'", "x", "shifted", HELDOUT),
        ("it has derive 'corruptions' and role 'shifted'", "x", "shifted", CORRUPTIONS),
        (
            "holds the very images of the ID set; write derive: common_corr",
            "x",
            "shifted",
            {"source": "digits"},
        ),
        ("draws a single split, so it needs role near, far, aux", "blobs", "shifted", {}),
        ("raster must be at least 0, found -1", "letters", "far", {"raster": -1}),
        ("data.size must be at least 8 and at most 1024, found 4", "blobs", "far", {"size": 4}),
        ("data.validation must be above 0 and below 1, found 1.0", "blobs", "far", {"validation": 1.0}),
        ("data.count must be at least 8, found 1", "blobs", "far", {"count": 1}),
        ("data.limit must be at least 0", "blobs", "far", {"limit": -2}),
        ("classes.test must be above 0", "blobs", "far", {"test": 0}),
    ],
)
def test_an_entry_that_makes_no_sense_is_named(tmp_path, message, name, role, settings):
    wrong(message, tmp_path / "x", name, role, **settings)


def test_an_entry_without_a_source_or_with_a_misspelt_key_is_named(tmp_path):
    for item, words in (
        ({"role": "far"}, "sets.blobs: missing key 'source', where the images come from"),
        ({"role": "far", "sorce": "blobs", "source": "blobs"}, r"unknown key 'sorce' .did you mean 'source'"),
        ({"source": "blobs"}, "sets.blobs: missing key 'role'"),
    ):
        settings = {key: value for key, value in DIGITS.items() if key != "id"}
        words_of_command = download_words(tmp_path / "x", "blobs", item, settings)
        with pytest.raises(InputError, match=words):
            CliRunner().invoke(
                plain_command(), words_of_command, catch_exceptions=False, standalone_mode=False
            )


def test_letters_are_drawn_at_the_raster_of_the_id_set(tmp_path):
    tensors, metadata = download(tmp_path / "a", "letters", "far", raster=8)
    assert metadata["source"]["raster"] == 8
    other, metadata = download(tmp_path / "b", "letters", "far")
    assert metadata["source"]["raster"] == 16
    assert not np.array_equal(tensors["test.images"], other["test.images"])


@pytest.mark.parametrize("names", [[""], ["cats"]])
def test_an_id_set_may_be_flat_or_of_one_class(tmp_path, names):
    pictures(tmp_path / "mine", names, 12)
    settings = {**COLOUR, "source": "folder", "folder": str(tmp_path / "mine"), "id": "mine"}
    tensors, metadata = download(tmp_path / "x", "mine", "id", **settings)
    assert metadata["splits"] == {"train": 7, "validation": 1, "test": 4}
    assert metadata["classes"] == [name for name in names if name]
    assert set(tensors["train.labels"].tolist()) == {0 if names[0] else -1}
    rows = [row for row in metadata["limits"] if row[1] == len(metadata["classes"])]
    lacking = {who for row in rows for who in row[3].removeprefix("left out: ").split(", ")}
    assert {"energy", "supcon", "probe", "rmds"} <= lacking and ("gmm" in lacking) == (not names[0])


def test_mirror_copy_gives_the_same_file_whatever_its_place(mirror, tmp_path, monkeypatch):
    digests = set()
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "mnist").symlink_to(mirror / "mnist")
        monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(tmp_path / place))
        download(tmp_path / "x", "mnist", "far", limit=100)
        digests.add(hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_heldout_classes_of_any_id_set(tmp_path):
    pictures(tmp_path / "mine", ["cats", "dogs", "eels"])
    place = {"source": "folder", "folder": str(tmp_path / "mine")}
    settings = {**COLOUR, "source": "folder", "id": "mine", "validation": 0.25, "heldout": ["dogs"]}
    settings |= {"id_source": "folder", "id_folder": place["folder"]}
    tensors, metadata = download(tmp_path / "a", "mine", "id", **settings | place)
    assert metadata["classes"] == ["cats", "eels"] and sum(metadata["splits"].values()) == 12
    rows = np.concatenate([tensors[f"{split}.index"] for split in metadata["splits"]])
    assert sorted(rows) == [*range(6), *range(12, 18)]
    tensors, metadata = download(tmp_path / "b", "mine_heldout", "near", derive="heldout", **settings)
    assert metadata["classes"] == ["dogs"] and tensors["test.index"].tolist() == list(range(6, 12))
    assert tensors["test.labels"].tolist() == [0] * 6
    wrong(
        "classes.heldout is .*it has cats, dogs, eels",
        tmp_path / "x",
        "mine",
        "id",
        **settings | place | {"heldout": ["8"]},
    )


def test_fashion_mnist_with_held_out_classes(fashion_mnist, tmp_path):
    """The real set, as Debian's package dataset-fashion-mnist installs it."""
    settings = {"id": "fashion_mnist", "size": 28, "heldout": ["Sandal", "Bag"], "limit": 800}
    tensors, metadata = download(tmp_path / "a", "fashion_mnist", "id", **settings)
    assert len(metadata["classes"]) == 8 and "Bag" not in metadata["classes"]
    assert metadata["splits"] == {"train": 800, "validation": 800, "test": 800}
    settings |= {"source": "fashion_mnist", "derive": "heldout"}
    near, held = download(tmp_path / "b", "fashion_mnist_heldout", "near", **settings)
    assert held["classes"] == ["Sandal", "Bag"] and np.bincount(near["test.labels"]).tolist() == [400, 400]


def test_list_names_every_source(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(tmp_path))
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(tmp_path))
    output = CliRunner().invoke(plain_command(), ["--list"]).output
    assert [line.split()[0] for line in output.splitlines()[1:]] == sorted(all_sources())


def test_list_says_what_is_here_and_what_is_missing(tmp_path, monkeypatch):
    for name in ("cache", "mirror/mnist", "mirror/KMNIST/raw", "mirror/stl10_binary"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("cache/random_images_300k/300K_random_images.npy", "mirror/iSUN.tar.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "mirror/mnist/t10k-images-idx3-ubyte.gz").write_bytes(b"")  # without its labels
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):  # torchvision unpacks these
        (tmp_path / "mirror/KMNIST/raw" / name).write_bytes(b"")
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(tmp_path / "cache"))
    output = CliRunner().invoke(plain_command(), ["--list"]).output
    rows = {line.split()[0]: line.split("  ") for line in output.splitlines()}
    where = {name: [cell.strip() for cell in row if cell.strip()][1] for name, row in rows.items()}
    expected = {"digits": "built in", "random_images_300k": "cache", "isun": "mirror", "stl10": "mirror"}
    expected["kmnist"] = "mirror"
    expected |= {
        "mnist": "to fetch",
        "svhn": "to fetch",
        "imagenet": "by hand",
        "lsun_crop_fixed": "by hand",
        "folder": "yours",
    }
    assert {name: where[name] for name in expected} == expected
    assert "39,077 MB" in output and "1,281,167 train + 50,000 test" in output
    assert all(one.licence in output and one.description in output for one in all_sources().values())


def test_a_mirror_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(tmp_path / "nowhere"))
    with pytest.raises(
        InputError, match="SSLOOD_DATA_MIRROR is .*nowhere', which is not a folder on this machine"
    ):
        listing(all_sources().values())
    wrong(
        "SSLOOD_DATA_MIRROR is .*nowhere', which is not a folder on this machine",
        tmp_path / "x",
        "svhn",
        "far",
    )


def test_no_torch_for_sets():
    """Importing torch would cost each of a dozen short stages two seconds."""
    code = (
        "import sys, stages.download; sys.exit(any(name in sys.modules for name in ('torch', 'torchvision')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
