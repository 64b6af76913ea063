"""The way to a square and the levels of deep pictures: settings of the data that travel to the scorer."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.data.sets.convert import CUT, convert
from sslood.data.sets.cuts import DataSettings
from sslood.deploy.onnx import contract
from sslood.deploy.pictures import chain_of, decide_pictures
from sslood.deploy.scorer import Decisions
from sslood.nets.networks.card import ModelCard
from tests.data.commands import download_words, invoke
from tests.data.pictures import deep_png, write

SETTINGS = {
    "size": 16, "channels": 1, "validation": 0.2, "count": 8, "limit": 0, "seed": 0, "heldout": [],
    "test": 0.3,
}  # fmt: skip
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of 12 bit pictures in 16 bit files; one of a class c uses 14 bits."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(30):
        values = RNG.integers(0, 4096, (16, 16))
        write(folder / "abc"[number % 3] / f"{number:02}.png", deep_png(values))
    values[0, 0] = 9000
    write(folder / "c" / "29.png", deep_png(values))
    return folder


def download(folder, out, role="id", name="own", derive=None, **changes):
    item = {"role": role, "source": "folder", "folder": str(folder)} | ({"derive": derive} if derive else {})
    own = {"role": "id", "source": "folder", "folder": str(folder)}
    words = download_words(out, name, item, SETTINGS | changes, "own", own)
    result = invoke(words)
    assert result.exit_code == 0, result.output
    return *load_tensors(out, kind="set"), result.output


def test_all_splits_and_derived_sets_have_the_levels_of_the_whole(folder, tmp_path):
    """Of a range of 14 bits, that one picture of a held-out class needs."""
    classes = {"heldout": ["c"]}
    known, metadata, _ = download(folder, tmp_path / "own", **classes)
    assert metadata["levels"] == [0, 16383]
    for name, derive in (("held", "heldout"), ("corrupt", "corruptions")):
        role = "near" if derive == "heldout" else "tuning"
        arrays, metadata, _ = download(folder, tmp_path / name, role, name, derive, **classes)
        assert metadata.get("levels", [0, 16383]) == [0, 16383]
    assert max(images.max() for key, images in known.items() if key.endswith("images")) == 64  # 4095 of 16383
    known, metadata, _ = download(folder, tmp_path / "own", bits=12, **classes)
    assert metadata["levels"] == [0, 4095] and metadata["settings"]["bits"] == 12
    assert known["train.images"].max() == 255


def test_what_is_not_changed_is_not_recorded(tmp_path):
    out = tmp_path / "digits"
    words = download_words(out, "digits", {"role": "id", "source": "digits"}, SETTINGS)
    before = invoke(words) and out.read_bytes()
    assert invoke([*words, "--square", "crop", "--bits", "auto"]) and out.read_bytes() == before
    assert not {"square", "bits", "levels"} & {*load_tensors(out)[1], *load_tensors(out)[1]["settings"]}


@pytest.mark.parametrize("square", ["crop", "pad", "squash"])
def test_the_way_to_a_square_is_recorded_and_what_it_loses_said(tmp_path, square):
    shapes = [(48, 6)] * 2 + [(24, 16)] * 3 + [(16, 16)] * 5  # 8:1, 3:2 (a third, not more), square
    for number, shape in enumerate(shapes):
        pixels = RNG.integers(0, 256, shape[::-1], np.uint8)
        write(tmp_path / "in" / "x" / f"{number}.png", b"")
        Image.fromarray(pixels).save(tmp_path / "in" / "x" / f"{number}.png")
    arrays, metadata, output = download(tmp_path / "in", tmp_path / "far", "far", "far", square=square)
    paths = [tmp_path / "in" / "x" / f"{number}.png" for number in range(10)]
    assert np.array_equal(arrays["test.images"], convert(paths, 16, 1, "x", square=square))
    lost = f"far: 2 of 10 pictures: {CUT}; the first is x/0.png (48 x 6 pixels)\n"
    assert (lost in output) == (square == "crop")
    assert metadata.get("square", "crop") == square
    assert ("on black" in metadata["resize"]) == (square == "pad")


def test_a_wrong_value_is_named(tmp_path):
    words = download_words(tmp_path / "x", "digits", {"role": "id", "source": "digits"}, SETTINGS)
    assert "--square" in invoke([*words, "--square", "stretch"]).output
    assert "bits must be at least 8 and at most 16, found 7" in invoke([*words, "--bits", "7"]).output
    with pytest.raises(ValueError, match="bits must be"):
        DataSettings(16, 1, 0.1, 8, 0, 0, bits=17)


def test_it_travels_to_the_scorer(folder, tmp_path):
    own = {"name": "own", "size": 16, "channels": 1, "mean": [0.5], "std": [0.2]}
    own |= {"resize": "…", "classes": []}
    rest = {"name": "m", "arch": "resnet-8-4", "objective": "scratch", "seed": 0, "feature_dim": 4}
    usual = ModelCard.for_set(own, **rest).metadata()
    assert not {"square", "levels"} & set(usual) and chain_of(usual).square == "crop"
    card = ModelCard.for_set({**own, "square": "pad", "levels": [0, 4095]}, **rest)
    metadata = ModelCard.read(card.metadata(), "x").metadata()
    assert (metadata["square"], metadata["levels"]) == ("pad", [0, 4095])
    for lie in ({"square": "stretch"}, {"levels": [4095, 0]}, {"levels": [0, float("nan")]}, {"levels": 12}):
        with pytest.raises(InputError, match=f"x: the model's {next(iter(lie))} cannot be"):
            ModelCard.read({**metadata, **lie}, "x")
    Image.fromarray(RNG.integers(0, 256, (6, 48), np.uint8)).save(tmp_path / "long.png")
    paths = [tmp_path / "long.png", folder / "a" / "00.png"]
    seen: list = []
    none = Decisions(np.zeros(2), np.zeros(2), np.zeros(2, bool), ["", ""])
    decide_pictures(SimpleNamespace(metadata=metadata, decide=lambda x: seen.append(x) or none), paths)
    assert np.array_equal(seen[0], convert(paths, 16, 1, "x", square="pad", levels=lambda: (0, 4095)))
    assert seen[0][1].max() > 250
    threshold = SimpleNamespace(value=1.0, alpha=0.1, images=10)
    rule = {"threshold": threshold, "by_class": None, "fewest": 10}
    calibrated = SimpleNamespace(**rule, name="knn", catches=[], warnings=list)
    kept = contract(SimpleNamespace(metadata=metadata, calibrated=calibrated))
    assert kept["levels"] == "[0, 4095]" and "resize as in training: …" in kept["preprocessing"]
