"""From folders of pictures to a detector file: copies, classes, known bad pictures, and the command."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from sslood.auditing.hashes import perceptual_hashes
from sslood.commands import fit, score
from sslood.core.errors import InputError
from sslood.data.sets.convert import Chain, converted
from sslood.data.sets.crops import file_of
from sslood.deploy.normal import fit_pictures as module
from sslood.deploy.normal.copies import groups_of
from sslood.deploy.normal.fit_pictures import classes_of, fit_folder
from sslood.deploy.pictures import Found, find_pictures
from sslood.deploy.scorer import load_deployed
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import stored
from tests.kit.small import ARCH, call, model_card


def pretrained(name, *, set_name, classes, **options):
    """Return a small untrained network for grey digits of 8 x 8 in place of a pretrained one."""
    with seeded(0):
        backbone = build_backbone(ARCH, channels=1)
    return stored({"backbone": backbone}, model_card(name=name, id=set_name, classes=classes), name)


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    monkeypatch.setattr(module, "open_pretrained", pretrained)
    monkeypatch.setattr(module, "default_name", lambda: "small")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder of scikit-learn's digits as PNG files of 8 x 8, by class, and one of noise."""
    folder = tmp_path_factory.mktemp("digits")
    data = load_digits()
    images = (data.images * 255 / 16).round().astype(np.uint8)
    for row in range(260):
        place = folder / "normal" / str(data.target[row] % 3)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[row]).save(place / f"{row:03}.png")
    (folder / "odd").mkdir()
    for row, noise in enumerate(np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)):
        Image.fromarray(noise).save(folder / "odd" / f"{row:02}.png")
    return folder


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_becomes_decisions(digits, tmp_path, capsys):
    out, table = tmp_path / "mine.safetensors", tmp_path / "s.csv"
    assert call(fit.main, images=digits / "normal", out=out, flat=None, alpha=0.1) == 0
    said = capsys.readouterr()
    assert " normal pictures teach, " in said.out and "Called OOD: " in said.out
    assert " normal pictures are copies of others" in said.err  # digits of 8 x 8 pixels look alike
    assert "of distorted pictures (far, " in said.out and f"Wrote {out}: " in said.out
    deployed = load_deployed(out)
    assert deployed.metadata["classes"] == ["normal"] and deployed.metadata["id"] == "normal"
    assert call(score.main, detector=out, images=digits / "odd", out=table) == 0
    rows = rows_of(table)
    assert len(rows) == 40 and {row["predicted_class"] for row in rows} == {""}
    # the same as in memory, where features come from the network before its batch norms are folded
    images = np.stack([converted(digits / "odd" / row["path"], Chain(8, 1), []) for row in rows])
    np.testing.assert_allclose(
        [float(row["score"]) for row in rows], deployed.decide(images).scores, rtol=1e-6
    )
    assert np.mean([row["is_ood"] == "true" for row in rows]) > 0.8
    again = tmp_path / "again.safetensors"
    assert call(fit.main, images=digits / "normal", out=again, flat=None, alpha=0.1) == 0
    assert again.read_bytes() == out.read_bytes()


def test_a_picture_that_goes_while_others_are_embedded(digits, tmp_path, monkeypatch):
    shutil.copytree(digits / "normal", tmp_path / "in")
    (gone, *_), before = find_pictures(tmp_path / "in").paths, fit.fit_folder

    def meanwhile(*args, **options):
        found = before(*args, **options)
        gone.unlink()
        return found

    monkeypatch.setattr(fit, "fit_folder", meanwhile)
    out = tmp_path / "d.safetensors"
    assert call(fit.main, images=tmp_path / "in", out=out, flat=None, alpha=0.1) == 0
    assert gone.relative_to(tmp_path / "in").as_posix() in load_deployed(out).nearest.names


def test_class_folders_give_classes(digits, tmp_path, capsys):
    out = tmp_path / "mine.safetensors"
    options = {"images": digits / "normal", "out": out, "alpha": 0.1, "detector": ["knn", "energy"]}
    assert call(fit.main, **options) == 0
    assert "get the right class of 3" in capsys.readouterr().out
    deployed = load_deployed(out)
    assert deployed.metadata["classes"] == ["0", "1", "2"] == sorted(deployed.metadata["classes"])
    assert deployed.calibrated.name == "knn + energy by sum"
    found = find_pictures(digits / "normal")
    images = np.stack([converted(path, Chain(8, 1), []) for path in found.paths])
    right = np.array(deployed.decide(images).predicted) == [name[0] for name in found.names]
    assert right.mean() > 0.5  # of a third by chance, by a network without training


def test_known_bad_pictures_are_no_normal_ones(digits, tmp_path):
    folder = shutil.copytree(digits / "normal", tmp_path / "normal")
    bad = shutil.copytree(digits / "odd", folder / "odd")
    for number in range(3):
        shutil.copy(bad / "00.png", bad / f"copy{number}.png")
    shutil.copy(bad / "01.png", folder / "0" / "sneaked.png")
    found = fit_folder(folder, alpha=0.1, bad=[bad], flat=True)
    assert not [path for path in found.pictures.paths if "odd" in path.parts or path.name == "sneaked.png"]
    assert any(note.startswith("3 of 43 pictures of odd are copies of other") for note in found.notes)
    assert any(note.startswith("1 of 261 normal pictures are copies of known bad") for note in found.notes)
    catch = found.fitted.calibrated.catches[1]
    assert (catch.name, catch.images) == ("odd", 40) and catch.share > 0.6
    assert found.fitted.calibrated.name.endswith("known_bad by sum")


def test_boxes_of_one_picture_are_no_copies_of_one_another(tmp_path):
    """Good and bad boxes of the same pictures: all are used, and no picture is on both sides of the split."""
    images, random = load_digits().images * 255 / 16, np.random.default_rng(0)
    rows = {"normal": ["path,x0,y0,x1,y1"], "bad": ["path,x0,y0,x1,y1"]}
    for number in range(60):
        tiles = [*images[3 * number : 3 * number + 3], *random.integers(0, 256, (2, 8, 8))]
        Image.fromarray(np.hstack(tiles).round().astype(np.uint8)).save(tmp_path / f"{number}.png")
        for place in range(5):
            kind = "normal" if place < 3 else "bad"
            rows[kind].append(f"{number}.png,{8 * place},0,{8 * place + 8},8")
    for kind, lines in rows.items():
        (tmp_path / f"{kind}.csv").write_text("\n".join(lines))
    found = fit_folder(tmp_path / "normal.csv", alpha=0.2, bad=[tmp_path / "bad.csv"])
    assert not any("copies of known bad" in note or "other known bad" in note for note in found.notes)
    assert len(found.pictures.paths) == 180 and found.fitted.calibrated.catches[1].images == 120
    files = [np.array([file_of(path) for path in found.pictures.paths])[rows] for rows in sides(found)]
    assert not {*files[0]} & {*files[1]}


def sides(found):
    return found.fitted.split.fit, found.fitted.split.calibration


def photographs():
    """Return scikit-learn's two photographs in overlapping and separate views of 128 px."""
    views = []
    for photograph in load_sample_images().images:
        for top in range(0, 427 - 128, 140):
            views += [photograph[top : top + 128, left : left + 128] for left in range(0, 640 - 128, 140)]
    return np.stack(views)


def test_copies_are_found_and_different_views_are_not(tmp_path):
    views = photographs()
    copies = []
    for view in views:
        image = Image.fromarray(np.ascontiguousarray(view))
        image.resize((90, 90)).save(tmp_path / "copy.jpg", quality=60)
        copies.append(np.asarray(Image.open(tmp_path / "copy.jpg").resize((128, 128))))
    mirrored = views[:, :, ::-1]
    images = np.ascontiguousarray(np.concatenate([views, np.stack(copies), mirrored]).transpose(0, 3, 1, 2))
    blocks = images.reshape(len(images), 3, 8, 16, 8, 16).mean((3, 5)) - 128
    features = (blocks + blocks[..., ::-1]).reshape(len(images), -1)  # as a network: blind to left and right
    groups = groups_of(perceptual_hashes(images), perceptual_hashes(images[..., ::-1]), features)
    one, two, three = groups.reshape(3, -1)
    assert len(set(one.tolist())) == len(views)
    assert (one == two).mean() > 0.9
    assert (one == three).mean() > 0.9


@pytest.mark.parametrize(
    ("names", "own", "expected"),
    [
        (["a.png", "b.png"], (), []),
        (["x/a.png", "x/b.png"], (), []),
        (["x/a.png", "y/2/b.png"], (), ["x", "y"]),
        (["a.png", "b.png"], ({"label": "cat"}, {"label": "dog"}), ["cat", "dog"]),
        (["x/a.png", "y/b.png"], ({"camera": "1"}, {"camera": "2"}), []),
    ],
)
def test_classes_are_folders_or_labels(tmp_path, names, own, expected):
    assert classes_of(Found([tmp_path / name for name in names], names, own=own)) == expected
    assert classes_of(Found([tmp_path / name for name in names], names, own=own), flat=True) == []


def test_bad_folders_are_told(digits, tmp_path, capsys):
    shutil.copy(digits / "odd" / "00.png", digits / "normal" / "loose.png")
    try:
        assert call(fit.main, images=digits / "normal", out=tmp_path / "x") == 1
        assert (
            "loose.png: has no class, others have; put each picture into a folder" in capsys.readouterr().err
        )
    finally:
        (digits / "normal" / "loose.png").unlink()
    (tmp_path / "few").mkdir()
    for row in range(20):
        shutil.copy(digits / "odd" / f"{row:02}.png", tmp_path / "few")
    assert call(fit.main, images=tmp_path / "few", out=tmp_path / "x", alpha=0.01) == 1
    assert "20 normal pictures are too few for alpha 0.01, which needs 109" in capsys.readouterr().err
    (tmp_path / "few" / "broken.png").write_bytes(b"none")
    assert call(fit.main, images=tmp_path / "few", out=tmp_path / "x", alpha=0.2) == 1
    assert "broken.png: cannot be read" in capsys.readouterr().err
    Image.open(digits / "odd" / "30.png").resize((20, 8)).save(tmp_path / "few" / "wide.png")
    options = {"images": tmp_path / "few", "out": tmp_path / "x", "alpha": 0.2, "skip_unreadable": None}
    assert call(fit.main, **options) == 0
    said = capsys.readouterr().err
    assert "broken.png: left out, cannot be read" in said
    assert "1 of 22 pictures: more than a third is lost to the square crop" in said  # it was read twice
    with pytest.raises(
        InputError, match="all normal pictures are also among the known bad ones; give other pictures"
    ):
        fit_folder(digits / "odd", alpha=0.1, bad=[digits / "odd"])


def test_a_second_look_goes_into_the_file(digits, tmp_path):
    """A picture and its mirror image have one score; the file without a second look knows two."""
    picture = np.asarray(Image.open(next((digits / "normal" / "2").iterdir())))
    both = np.stack([picture, picture[:, ::-1]])[:, None]
    scores = {}
    for options in ({}, {"mirror": None}):
        out = tmp_path / f"{len(options)}.safetensors"
        normal = {"images": digits / "normal", "alpha": 0.1, "detector": "knn"}
        assert call(fit.main, **normal, **options, maps=None, out=out) == 0
        scorer = load_deployed(out)
        scores[len(options)] = scorer.decide(both).scores
        assert ("mirror" in scorer.metadata) == bool(options)
    assert scores[0][0] != pytest.approx(scores[0][1], rel=1e-3)
    assert scores[1][0] == pytest.approx(scores[1][1], rel=1e-5)


def test_one_look_is_not_taken_for_two(digits, tmp_path):
    """What was embedded before an interruption counts only for the same look."""
    given = {"alpha": 0.1, "detector": "knn", "keep": tmp_path / "k"}
    once = fit_folder(digits / "odd", **given)
    for looks in ({"mirror": True}, {"shift": 1}):
        more = fit_folder(digits / "odd", **looks, **given)
        assert not any("before" in note for note in more.notes)
        assert np.abs(once.pictures.features - more.pictures.features).max() > 1e-3


def test_a_shift_goes_into_the_file_and_not_past_the_side(digits, tmp_path, capsys):
    given = {"images": digits / "odd", "alpha": 0.1, "detector": "knn", "out": tmp_path / "d.safetensors"}
    assert call(fit.main, **given, shift=3) == 0
    assert load_deployed(given["out"]).metadata["shift"] == 3
    capsys.readouterr()
    assert call(fit.main, **(given | {"out": tmp_path / "e.safetensors"}), shift=2000) != 0
    assert "--shift is 2000, and images have" in capsys.readouterr().err
    assert not (tmp_path / "e.safetensors").exists()
