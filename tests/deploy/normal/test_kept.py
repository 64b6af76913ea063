"""An interrupted `fit` goes on: the same bytes, without the pictures that were embedded before."""

import shutil

import numpy as np
import pytest
from PIL import Image

from sslood.commands import fit
from sslood.data.sets.bounds import VARIABLE
from sslood.deploy.normal import fit_pictures as module
from sslood.deploy.normal.embedding import BLOCK, Embedder
from sslood.deploy.normal.kept import Block, Kept
from tests.deploy.normal.test_pictures import digits, pretrained
from tests.kit.small import call

__all__ = ["digits"]  # a fixture


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    monkeypatch.setattr(module, "open_pretrained", pretrained)
    monkeypatch.setattr(module, "default_name", lambda: "small")


class Killed(KeyboardInterrupt):
    pass


def limited(monkeypatch, calls):
    """Let the network be asked so often, and count."""
    asked, features = [], Embedder.features

    def some(self, images):
        if len(asked) == calls:
            raise Killed
        asked.append(len(images))
        return features(self, images)

    monkeypatch.setattr(Embedder, "features", some)
    return asked


def test_it_goes_on_to_the_same_bytes(digits, tmp_path, monkeypatch, capsys):
    whole, out = tmp_path / "whole.safetensors", tmp_path / "mine.safetensors"
    normal, partial = digits / "normal", tmp_path / "mine.safetensors.partial"
    (normal / "0" / "broken.png").write_bytes(b"no picture")
    options = {"images": normal, "alpha": 0.1, "detector": "knn", "skip_unreadable": None}
    assert call(fit.main, out=whole, **options) == 0
    said = capsys.readouterr().err
    assert not (tmp_path / "whole.safetensors.partial").exists()
    with monkeypatch.context() as patch:
        limited(patch, 3)
        assert call(fit.main, out=out, **options) == 130
    assert "run the same command again to go on" in capsys.readouterr().err
    assert len(list(partial.iterdir())) == 3 and not out.exists()
    (next(iter(partial.iterdir()))).write_bytes(b"cut")  # this block is embedded again
    with monkeypatch.context() as patch:
        asked = limited(patch, 100)
        assert call(fit.main, out=out, **options) == 0
    assert sum(asked[:3]) <= 260 - 2 * BLOCK + 1 and asked[0] <= BLOCK
    again = capsys.readouterr().err
    assert again == f"{2 * BLOCK} pictures were embedded before, by a run that was interrupted\n" + said
    assert "broken.png: left out" in said and out.read_bytes() == whole.read_bytes() and not partial.exists()
    del options["skip_unreadable"]
    assert call(fit.main, out=out, **options) == 1
    assert "broken.png: cannot be read" in capsys.readouterr().err
    (normal / "0" / "broken.png").unlink()


def test_an_error_leaves_only_what_the_next_run_goes_on_from(digits, tmp_path, monkeypatch, capsys):
    """Forty pictures are embedded again in a second, 260 are not; nor is a folder without a block left."""
    few, many, partial = digits / "odd", digits / "normal", tmp_path / "mine.safetensors.partial"
    options = {"out": tmp_path / "mine.safetensors", "detector": "knn"}
    assert call(fit.main, images=few, alpha=0.001, **options) == 1
    assert "partial" not in capsys.readouterr().err and not partial.exists()
    assert call(fit.main, images=many, alpha=0.001, **options) == 1
    said = capsys.readouterr().err
    assert f"260 pictures that were embedded are in {partial}; the next run with this --out takes" in said
    with monkeypatch.context() as patch:
        asked = limited(patch, 100)
        assert call(fit.main, images=many, alpha=0.1, **options) == 0
    assert "260 pictures were embedded before" in capsys.readouterr().err and not partial.exists()
    assert sum(asked) < 260 * 2  # the distorted copies alone
    with monkeypatch.context() as patch:
        patch.setattr(Kept, "save", lambda *_: partial.mkdir() or limited(patch, 0))
        assert call(fit.main, images=many, alpha=0.1, **options) == 130
    assert not partial.exists()


def test_what_a_killed_run_was_writing_goes_with_the_blocks(tmp_path):
    """Its temporary file has the number of its process, which is no more."""
    kept = Kept.of(tmp_path / "k", {}, {}, "cpu")
    kept.save(Block({"features": np.eye(3)}), [tmp_path / "a.png"])
    (tmp_path / "k" / ".block.safetensors.999999999.x.part").write_bytes(b"cut")
    kept.clear()
    assert not (tmp_path / "k").exists()


def test_what_was_too_large_is_read_once_the_limit_allows_it(digits, tmp_path, monkeypatch, capsys):
    shutil.copytree(digits / "odd", tmp_path / "in")
    Image.new("L", (1500, 1000)).save(tmp_path / "in" / "large.png")
    options = {"images": tmp_path / "in", "alpha": 0.1, "detector": "knn", "skip_unreadable": None}
    with monkeypatch.context() as patch:
        patch.setenv(VARIABLE, "1")
        limited(patch, 1)
        assert call(fit.main, out=tmp_path / "d.safetensors", **options) == 130
    assert call(fit.main, out=tmp_path / "d.safetensors", **options) == 0
    assert "left out" not in capsys.readouterr().err


def test_distorted_copies_do_not_count_as_pictures(digits, tmp_path):
    for before in ([], ["40 pictures were embedded before, by a run that was interrupted"]):
        found = module.fit_folder(digits / "odd", alpha=0.1, detector="knn", keep=tmp_path / "k")
        assert [note for note in found.notes if "before" in note] == before


def test_other_pictures_networks_and_code_are_embedded_anew(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((8, 8), 50 * number, np.uint8)).save(path)
    weights = {"w": np.arange(4, dtype=np.float32)}
    kept = Kept.of(tmp_path / "k", weights, {"size": 8}, "cpu")
    kept.save(Block({"features": np.eye(3)}, [paths[1]], [(paths[2], ("odd", "so"))]), paths, "side", 1)
    found = kept.load(paths, "side", 1)
    assert found is not None and kept.found == 3
    assert found.unreadable == [paths[1]] and found.remarks == [(paths[2], ("odd", "so"))]
    assert kept.load(paths, "side", 2) is None and kept.load(paths[:2], "side", 1) is None
    for arrays, metadata, device in (
        ({"w": weights["w"] + 1}, {"size": 8}, "cpu"),
        (weights, {"size": 9}, "cpu"),
        (weights, {"size": 8}, "cuda"),
    ):
        assert Kept.of(tmp_path / "k", arrays, metadata, device).load(paths, "side", 1) is None
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(paths[0])
    assert kept.load(paths, "side", 1) is None
    (tmp_path / "k" / "mine.txt").write_text("of somebody else")
    kept.clear()
    assert [place.name for place in (tmp_path / "k").iterdir()] == ["mine.txt"]
    assert Kept().load(paths) is None
