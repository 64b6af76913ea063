"""Folders and lists of one's own pictures, through the command that the pipeline runs."""

import hashlib
import shlex

import numpy as np
import pytest
from dvc.repo import Repo
from PIL import Image

from sslood.auditing.audit import read_sets
from sslood.auditing.outliers import false_outliers
from sslood.auditing.overlap import AuditSettings
from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.data.sets.convert import convert
from sslood.data.sets.roles.roles import ROLES
from sslood.data.sets.user_images import read_user_images
from stages.download import main
from tests.data.commands import download_words, invoke
from tests.test_pipeline_contract import outside_git

SETTINGS = {
    "size": 16, "channels": 3, "validation": 0.25, "count": 80, "limit": 0, "seed": 0, "test": 0.25
}  # fmt: skip


def download(out, role, folder, id_name="digits", **keys):
    """Run the stage on your own pictures, the set `mine`; return (what it says, status)."""
    item = {"role": role, "source": "folder", "folder": str(folder), **keys}
    result = invoke(download_words(out, "mine", item, SETTINGS, id_name))
    return result.output, result.exit_code


def paint(folder, count):
    """Write `count` plain pictures, the n-th of colour (10 n, 5 n, n), and return their names."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        Image.new("RGB", (20, 24), (10 * number, 5 * number, number)).save(folder / f"{number}.png")
    return [f"{number}.png" for number in range(count)]


def written(folder, header, *rows):
    path = folder / "list.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_list_of_paths_alone_is_an_ood_set_in_its_order(tmp_path):
    paint(tmp_path / "pictures", 3)
    Image.new("RGB", (16, 16), (250, 0, 0)).save(tmp_path / "elsewhere.bmp")
    path = written(tmp_path, "path", "pictures/2.png", f"{tmp_path}/elsewhere.bmp", "pictures/0.png")
    output, status = download(tmp_path / "out", "far", path)
    tensors, metadata = load_tensors(tmp_path / "out", kind="set")
    assert status == 0 and "mine, 3 test images of 3x16x16." in output
    assert tensors["test.images"][:, 0, 8, 8].tolist() == [20, 250, 0]
    assert tensors["test.labels"].tolist() == [-1] * 3 and metadata["source"]["list"] == "list.csv"


def test_labels_are_classes_and_numbers_sort_as_numbers(tmp_path):
    names = paint(tmp_path, 4)
    path = written(tmp_path, "path,label", *map(",".join, zip(names, ["dog", "", "cat", "dog"], strict=True)))
    pictures = read_user_images("mine", path, ROLES["far"])[0][""]
    assert pictures.classes == ("cat", "dog") and pictures.labels.tolist() == [1, -1, 0, 1]
    path = written(tmp_path, "label,path", *map(",".join, zip(["10", "9", "2", "10"], names, strict=True)))
    pictures = read_user_images("mine", path, ROLES["id"])[0][""]
    assert pictures.classes == ("2", "9", "10") and pictures.labels.tolist() == [2, 1, 0, 2]


def test_splits_of_the_list_are_kept(tmp_path):
    names = paint(tmp_path, 20)
    splits = ["train"] * 12 + ["test"] * 8
    rows = [f"{name},{'ab'[n % 2]},{splits[n]}" for n, name in enumerate(names)]
    path = written(tmp_path, "path,label,split", *rows)
    output, status = download(tmp_path / "id", "id", path, "mine")
    assert status == 0, output
    tensors, metadata = load_tensors(tmp_path / "id", kind="set")
    assert metadata["splits"] == {"train": 9, "validation": 3, "test": 8}
    assert sorted(tensors["test.images"][:, 0, 8, 8].tolist()) == [10 * n for n in range(12, 20)]
    download(tmp_path / "ood", "far", path)
    assert load_tensors(tmp_path / "ood", kind="set")[1]["splits"] == {"test": 8}


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        ("file,label", ["0.png,a"], "must name the columns"),
        ("path,lable", ["0.png,a"], "column 'lable' must be called label"),
        ("path,subset", ["0.png,train"], "column 'subset' must be called split"),
        ("filename,label", ["0.png,a"], "call 'filename' path"),
        ("path", [], "lists no image"),
        ("path,label", ["0.png,a", "1.png"], "row 3: must hold path,label"),
        ("path,label", ["0.png,a", ",b"], "row 3: must hold"),
        ("path", ["0.png,a"], "row 2: must hold path"),
        ("path,label", ["0.png,a", "1.png,b", "0.png,a"], "row 4: lists '0.png', as row 2"),
        ("path,label", ["0.png,a", "1.png,"], "row 3: an ID set needs a label"),
        ("path,label,split", ["0.png,a,tset"], "row 2: split is 'tset'"),
        ("path,label,split", ["0.png,a,train"], "no row has split 'test'"),
        ("path,label", ['0.png,"a'], "not a CSV file"),
    ],
)
def test_faults_of_a_list_name_the_row(tmp_path, header, rows, words):
    with pytest.raises(InputError, match=words) as failure:
        read_user_images("mine", written(tmp_path, header, *rows), ROLES["id"])
    assert "list.csv" in str(failure.value) and "\n" not in str(failure.value)


def test_list_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(InputError, match="sets.mine.folder"):
        read_user_images("mine", tmp_path / "nowhere.csv", ROLES["far"])
    (tmp_path / "list.csv").write_bytes(b"path\n\xff\xfe.png\n")
    with pytest.raises(InputError, match="UTF-8"):
        read_user_images("mine", tmp_path / "list.csv", ROLES["far"])


def damaged(folder):
    """A folder of ten pictures of which 3.png is cut short and 7.png is none."""
    paint(folder, 10)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "3.png")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:5000])
    (folder / "7.png").write_text("no picture")
    return folder


def test_unreadable_pictures_stop_by_default_and_are_named(tmp_path):
    folder = damaged(tmp_path / "mine")
    output, status = download(tmp_path / "out", "far", folder)
    assert status == 1 and not (tmp_path / "out").exists()
    assert "3.png: cannot be read" in output or "7.png: cannot be read" in output


def test_unreadable_pictures_can_be_left_out_and_are_listed(tmp_path):
    folder = damaged(tmp_path / "mine")
    output, status = download(tmp_path / "out", "far", folder, skip_unreadable=True)
    assert status == 0 and "8 test images" in output and "2 unreadable ones are left out" in output
    tensors, metadata = load_tensors(tmp_path / "out", kind="set")
    assert metadata["source"]["unreadable"] == {"test": ["3.png", "7.png"]}
    kept = [0, 1, 2, 4, 5, 6, 8, 9]
    assert tensors["test.index"].tolist() == kept
    assert tensors["test.images"][:, 0, 8, 8].tolist() == [10 * number for number in kept]
    rows = [f"mine/{n}.png" for n in range(10)] + ["mine/gone.png"]
    path = written(tmp_path, "path", *rows)
    download(tmp_path / "out", "far", path, skip_unreadable=True)
    assert load_tensors(tmp_path / "out")[1]["source"]["unreadable"]["test"][-1] == "mine/gone.png"


def test_only_unreadable_pictures(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.png").write_text("no picture")
    output, status = download(tmp_path / "out", "far", tmp_path / "mine", skip_unreadable=True)
    assert status == 1 and "none of the 1 pictures can be read" in output


def test_many_unreadable_pictures_keep_order(tmp_path):
    """Threads find them in any order."""
    paths = [tmp_path / f"{number:03}.png" for number in range(400)]
    for number, path in enumerate(paths):
        if number % 3:
            Image.new("L", (8, 8), number % 256).save(path)
        else:
            path.write_bytes(b"")
    skipped: list[int] = []
    images = convert(paths, 8, 1, "x", skipped)
    assert skipped == list(range(0, 400, 3))
    assert images[:, 0, 0, 0].tolist() == [number % 256 for number in range(400) if number % 3]


@pytest.mark.parametrize("listed", [False, True])
def test_roles_take_the_splits_that_are_for_them(tmp_path, listed):
    """Folders train, validation and test, or a column split: no role sees what is not meant for it."""
    rows, red = [], {"train": range(0, 8), "validation": range(8, 12), "test": range(12, 15)}
    for split, numbers in red.items():
        (tmp_path / "mine" / split).mkdir(parents=True)
        for number in numbers:
            name = f"mine/{split}/{number:02}.png"
            Image.new("RGB", (16, 16), (10 * number, 0, 0)).save(tmp_path / name)
            rows.append(f"{name},{split}")
    place = written(tmp_path, "path,split", *rows) if listed else tmp_path / "mine"
    for role, splits in {
        "near": ["test"], "far": ["test"], "auxiliary": ["train"], "tuning": ["train", "validation"]
    }.items():  # fmt: skip
        output, status = download(tmp_path / role, role, place)
        assert status == 0, output
        tensors, metadata = load_tensors(tmp_path / role, kind="set")
        assert list(metadata["splits"]) == splits
        for split in splits:
            assert tensors[f"{split}.images"][:, 0, 0, 0].tolist() == [10 * n for n in red[split]]


def test_pictures_without_splits_serve_any_role(tmp_path):
    """Auxiliary: all for training. Tuning: a share is kept for choosing, no picture is in both."""
    paint(tmp_path / "mine", 20)
    download(tmp_path / "auxiliary", "auxiliary", tmp_path / "mine")
    tensors, metadata = load_tensors(tmp_path / "auxiliary", kind="set")
    assert metadata["splits"] == {"train": 20} and sorted(tensors["train.index"]) == list(range(20))
    download(tmp_path / "tuning", "tuning", tmp_path / "mine")
    tensors, metadata = load_tensors(tmp_path / "tuning", kind="set")
    assert metadata["splits"] == {"train": 15, "validation": 5}
    assert sorted([*tensors["train.index"], *tensors["validation.index"]]) == list(range(20))


@pytest.mark.parametrize("listed", [False, True])
def test_a_tuning_set_of_validation_pictures_alone_has_an_empty_train_split(tmp_path, listed):
    """As has one of a single picture: the audit then finds no outliers to train on in it."""
    (tmp_path / "mine").mkdir()
    names = paint(tmp_path / "mine/validation", 3)
    rows = [f"mine/validation/{name},validation" for name in names]
    place = written(tmp_path, "path,split", *rows) if listed else tmp_path / "mine"
    output, status = download(tmp_path / "mine.safetensors", "tuning", place)
    assert status == 0, output
    tensors, metadata = load_tensors(tmp_path / "mine.safetensors", kind="set")
    assert metadata["splits"] == {"train": 0, "validation": 3}
    assert tensors["train.images"].shape == (0, 3, 16, 16) and not len(tensors["train.labels"])
    sets = read_sets(tmp_path, {"mine": "tuning"})
    assert false_outliers(sets, "digits", AuditSettings(32, 0.9), lambda split: pytest.fail(split)) == {}


def test_a_class_called_train_is_a_class(tmp_path):
    for name in ("bus", "train"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        paint(tmp_path / "mine" / name, 2)
    download(tmp_path / "out", "auxiliary", tmp_path / "mine")
    metadata = load_tensors(tmp_path / "out", kind="set")[1]
    assert metadata["classes"] == ["bus", "train"] and metadata["splits"] == {"train": 4}


def test_pictures_of_any_size_in_one_folder(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for number, shape in enumerate([(16, 16), (300, 20), (17, 400), (1, 1), (1000, 700)]):
        Image.new("RGB", shape, (50 * number, 0, 0)).save(folder / f"{number}.png")
    output, status = download(tmp_path / "out", "far", folder)
    assert status == 0, output
    images = load_tensors(tmp_path / "out", kind="set")[0]["test.images"]
    assert (images[:, 0] == 50 * np.arange(5)[:, None, None]).all()


def test_an_entry_of_the_params_is_all_that_a_user_writes(tmp_path, root):
    text = (root / "params.yaml").read_text()
    mine = "  mine: {role: far, source: folder, folder: ~/list.csv, skip_unreadable: true}\n"
    (tmp_path / "params.yaml").write_text(text.replace("sets:\n", f"sets:\n{mine}", 1))
    (tmp_path / "dvc.yaml").write_text((root / "dvc.yaml").read_text())
    outside_git(tmp_path)
    with Repo(str(tmp_path)) as repo:
        (stage,) = (stage for stage in repo.index.stages if stage.name == "download@mine")
    context = main.make_context("download", shlex.split(stage.cmd.replace("$DVC_STAGE", stage.name))[3:])
    assert context.params["item"] == "params.yaml:sets.mine"
    assert "sslood/data/sources/folder.py" in {dep.def_path for dep in stage.deps}


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    paint(tmp_path / "mine", 2)
    output, status = download(tmp_path / "out", "far", "~/mine")
    assert status == 0 and "mine, 2 test images" in output


def test_same_bytes_twice(tmp_path):
    folder = damaged(tmp_path / "mine")
    digests = set()
    for out in ("a", "b"):
        download(tmp_path / out, "far", folder, skip_unreadable=True)
        digests.add(hashlib.sha256((tmp_path / out).read_bytes()).hexdigest())
    assert len(digests) == 1
