"""Vectors from elsewhere as a model of the tables: what the file holds, its rows, and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from sslood.commands import vectors
from sslood.core.errors import InputError
from sslood.deploy.tables.folder import read_folder
from sslood.ood.kit.outputs import read_embeddings
from sslood.ood.kit.vectors import read_vectors
from sslood.ood.measures.metrics import ood_metrics
from stages import posthoc
from tests.kit.registries import example
from tests.kit.small import call
from tests.stages.test_evaluations import searched, stage

WIDTH, CLASSES = 8, 3
SPLITS = {
    "id": ("train", "validation", "test"), "near": ("test",), "far": ("test",), "corruptions": ("validation",)
}  # fmt: skip
ROLES = {"id": "id", "near": "near", "far": "far", "corruptions": "tuning"}
PARAMS = "sets:\n" + "".join(f"  {name}: {{role: {role}, source: digits}}\n" for name, role in ROLES.items())


def write(folder, dtype=np.float16):
    """Images lie about the vectors of their classes, those of the far set about other words."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    labels, negatives = random.normal(size=(CLASSES, WIDTH)), random.normal(size=(20, WIDTH))
    for name, splits in SPLITS.items():
        for split in splits:
            of = np.arange(40) % CLASSES
            centres = negatives[np.arange(40) % 20] if name == "far" else labels[of]
            rows = centres + 0.3 * random.normal(size=(40, WIDTH))
            np.save(folder / f"{name}.{split}.npy", rows.astype(dtype))
            if name == "id":
                np.save(folder / f"{name}.{split}.labels.npy", of)
    np.save(folder / "labels.npy", labels)
    np.save(folder / "negatives.npy", negatives)
    (folder / "params.yaml").write_text(PARAMS)
    return folder


def made(folder):
    out = folder / "e" / "clip.safetensors"
    return call(vectors.main, vectors=folder, params=folder / "params.yaml", name="clip", out=out)


def test_vectors_become_rows_of_the_results(tmp_path):
    folder = write(tmp_path)
    (folder / "classes.txt").write_text("cat\ndog\nÖl\n", encoding="utf-8")
    assert made(folder) == 0
    file = read_embeddings(folder / "e", "clip", 0)
    train, far = file.outputs("id", "train"), file.outputs("far", "test")
    assert file.metadata["classes"] == ["cat", "dog", "Öl"] and train.classes == CLASSES
    rows = np.load(folder / "id.train.npy").astype(float)
    cosines = rows @ np.load(folder / "labels.npy").T / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines /= np.linalg.norm(np.load(folder / "labels.npy"), axis=1)
    np.testing.assert_allclose(train.logits, 100 * cosines, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(train.head.logits(train.features), train.logits, rtol=1e-5, atol=1e-4)
    # MCM at CLIP's temperature is MSP of these logits
    ours = example("mcm", temperature=0.01).fit(train).score(far)
    msp = example("msp").fit(train).score(far)
    np.testing.assert_allclose(ours, msp, rtol=1e-4, atol=1e-4)
    names = ["mcm", "neglabel", "knn"]
    result = stage(posthoc, folder, searched(*names, knn_k=3, neglabel_groups=5), models=["clip"])
    assert result.exit_code == 0, result.output
    written = json.loads((folder / "out.json").read_text())
    found = written["models"]["clip"]
    assert list(found) == names and found["neglabel"]["far"]["auroc"] > 0.95
    chosen = {key: written["chosen"][f"clip.neglabel.{key}"]["value"] for key in ("temperature", "kept")}
    detector = example("neglabel", groups=5, **chosen).fit(train)
    inside, outside = (detector.score(file.outputs(name, "test")) for name in ("id", "far"))
    assert found["neglabel"]["far"]["auroc"] == pytest.approx(ood_metrics(inside, outside)["auroc"])


@pytest.mark.parametrize("kind", ["parquet", "safetensors"])
def test_other_files_give_the_same_model(tmp_path, kind):
    """The logits of a classifier beside the vectors, and class names as labels, in parquet."""
    folder, other = write(tmp_path / "npy"), tmp_path / "other"
    for name in ("labels", "negatives"):
        (folder / f"{name}.npy").unlink()
    (folder / "classes.txt").write_text("cat\nant\nbee\n")
    other.mkdir()
    for name in ("params.yaml", "classes.txt"):
        (other / name).write_bytes((folder / name).read_bytes())
    for path in sorted(folder.glob("*.*.npy")):
        where = path.name.removesuffix(".npy")
        if where.endswith("labels"):
            continue
        rows = np.load(path).astype(np.float32)
        logits = rows[:, :CLASSES] * 3 - 1  # a classifier, whose weights are found
        np.save(folder / f"{where}.logits.npy", logits)
        known = where.startswith("id.")
        columns = {"features": rows, "logits": logits}
        if kind == "safetensors":
            save_file(
                columns | ({"labels": np.arange(40) % CLASSES} if known else {}), other / f"{where}.{kind}"
            )
            continue
        of = {"label": [("cat", "ant", "bee")[place % CLASSES] for place in range(40)]} if known else {}
        table = {key: list(part.astype(float)) for key, part in columns.items()} | of
        pq.write_table(pa.table(table), other / f"{where}.{kind}")
    assert made(folder) == made(other) == 0
    files = [(one / "e" / "clip.safetensors").read_bytes() for one in (folder, other)]
    assert files[0] == files[1]
    train = read_embeddings(other / "e", "clip", 0).outputs("id", "train")
    np.testing.assert_array_equal(
        train.logits, np.load(folder / "id.train.npy")[:, :CLASSES].astype("f4") * 3 - 1
    )
    (other / "classes.txt").unlink()
    if kind == "parquet":
        with pytest.raises(ValueError, match="not known which class each of the logits is of; write"):
            read_folder(other, SPLITS, "id")


def test_a_stray_label_makes_no_million_of_classes(tmp_path, capsys):
    write(tmp_path)
    for name in ("labels", "negatives"):
        (tmp_path / f"{name}.npy").unlink()
    np.save(tmp_path / "id.train.labels.npy", np.r_[np.arange(39) % CLASSES, 2024011])
    assert made(tmp_path) == 1
    said = capsys.readouterr().err
    assert "id.train.npy: an image has label 2024011, but there are only 40 ID training images" in said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("id.train.npy", np.full((40, WIDTH), 1e300), "40 of 40 vectors are NaN, infinite or beyond float32"),
        ("id.train.logits.npy", np.zeros((9, CLASSES)), "there are 9 rows of logits for 40 vectors"),
        ("id.train.npy", np.array([{}]), "is no array that numpy.load can read"),
    ],
)
def test_a_wrong_array_is_named(tmp_path, capsys, name, content, message):
    write(tmp_path)
    for words in ("labels", "negatives"):
        (tmp_path / f"{words}.npy").unlink()
    np.save(tmp_path / name, content)
    assert made(tmp_path) == 1
    said = capsys.readouterr().err
    assert message in said and "allow_pickle" not in said


def test_logits_of_no_linear_classifier_are_kept_and_said(tmp_path, capsys):
    write_logits(write(tmp_path))
    np.save(tmp_path / "id.train.logits.npy", np.load(tmp_path / "id.train.npy")[:, :CLASSES] ** 2)
    for name in ("labels", "negatives"):
        (tmp_path / f"{name}.npy").unlink()
    assert made(tmp_path) == 0
    assert "Note: the logits are not linear in the vectors" in capsys.readouterr().err
    train = read_embeddings(tmp_path / "e", "clip", 0).outputs("id", "train")
    assert train.head is None and example("energy").suits(train)


def test_without_words_only_the_rows_of_features_remain(tmp_path):
    folder = write(tmp_path)
    for name in ("labels", "negatives"):
        (folder / f"{name}.npy").unlink()
    assert made(folder) == 0
    train = read_embeddings(folder / "e", "clip", 0).outputs("id", "train")
    np.testing.assert_array_equal(train.features, np.load(folder / "id.train.npy").astype(np.float32))
    assert train.logits is None and train.concepts is None and train.classes == CLASSES
    assert not example("mcm").suits(train) and not example("msp").suits(train)


def spoiled(rows):
    rows = rows.astype(np.float32)
    rows[[3, 17]] = np.nan
    return rows


BAD = {
    "of another width": (
        "near.test",
        lambda rows: rows[:, :5],
        "5 wide, but the vectors of the labels are 8 wide",
    ),
    "negatives of another width": (
        "negatives",
        lambda rows: rows[:, :5],
        "negatives.npy: vectors are 5 wide",
    ),
    "rows of NaN": (
        "far.test",
        spoiled,
        r"far.test.npy: 2 of 40 vectors are NaN, infinite or beyond float32 \(rows 3, 17\)",
    ),
    "float64 beyond float32": ("far.test", lambda rows: rows.astype(float) * 1e300, "40 of 40 vectors"),
    "one vector": ("far.test", lambda rows: rows[0], r"array of float16 of shape \(8,\); expected numbers"),
    "words": ("far.test", lambda rows: np.array([["a"]]), "array of <U1"),
    "objects": ("far.test", lambda rows: np.array([[None]]), "far.test.npy: is no array"),
    "no vector": ("far.test", lambda rows: rows[:0], r"of shape \(0, 8\)"),
    "a label of zeros": ("labels", lambda rows: rows * [[1], [0], [1]], "labels.npy: row 1 is zero"),
    "labels of too few images": (
        "id.train.labels",
        lambda of: of[:5],
        r"shape \(5,\); expected 40 class indices",
    ),
    "labels that are no class": (
        "id.test.labels",
        lambda of: of + 1,
        "holds class 3, but there are 3 classes",
    ),
    "labels beyond int64": (
        "id.train.labels",
        lambda of: np.where(np.arange(len(of)), of.astype(np.uint64), np.uint64(2**64 - 1)),
        "array of uint64 of shape .*expected 40 class indices",
    ),
    "labels as fractions": ("id.test.labels", lambda of: of / 2, "array of float64"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(tmp_path, case):
    name, change, message = BAD[case]
    path = write(tmp_path) / f"{name}.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(ValueError, match=message):
        read_vectors(tmp_path, SPLITS, "id")


DAMAGED = [
    "{'descr': '<f8', 'fortran_order': False, 'shape': (-6, 3)}",
    "{'descr': '<f8', 'fortran_order': False, [1]: (6, 3)}",
    "{'descr': (), 'fortran_order': False, 'shape': (6, 3)}",
    "{'descr': [('a',}",
    "{'descr': '<f8 'fortran_order': False}",
]


def damaged(path, header):
    """Write a .npy file with this header; numpy.load raises another kind of error for each."""
    path.write_bytes(b"\x93NUMPY\x01\x00v\x00" + header.ljust(117).encode() + b"\n" + bytes(144))
    return path


@pytest.mark.parametrize("header", DAMAGED)
def test_a_damaged_header_is_named(tmp_path, header):
    damaged(write(tmp_path) / "far.test.npy", header)
    with pytest.raises(InputError, match="far.test.npy: is no array that numpy.load can read"):
        read_vectors(tmp_path, SPLITS, "id")


def write_logits(folder, but=(), width=CLASSES, count=40):
    for name, splits in SPLITS.items():
        for split in splits:
            if f"{name}.{split}" not in but:
                np.save(folder / f"{name}.{split}.logits.npy", np.zeros((count, width), np.float32))


@pytest.mark.parametrize(
    "options, words, message",
    [
        ({"but": ["far.test"]}, False, "far.test has no logits, but corruptions.validation.logits are there"),
        ({"count": 39}, False, "id.train.npy: there are 39 rows of logits for 40 vectors"),
        ({}, True, "id.train.npy: there are logits, and labels.npy gives others"),
        ({"width": 2}, False, "holds class 2, but there are 2 classes"),
    ],
)
def test_logits_that_do_not_fit(tmp_path, options, words, message):
    write_logits(write(tmp_path), **options)
    if not words:
        for name in ("labels", "negatives"):
            (tmp_path / f"{name}.npy").unlink()
    with pytest.raises(ValueError, match=message):
        read_vectors(tmp_path, SPLITS, "id")


@pytest.mark.parametrize(
    "labels, message",
    [
        ([2**63 + 5, 1, 2], "test.parquet: label 9223372036854775813 is no class index from 0 .or -1, unk"),
        ([-7, 1, 2], "id.test.parquet: label -7 is no class index from 0 .or -1, unknown.$"),
        ([0, 9, 2], "id.test.parquet: holds class 9, but there are 3 classes"),
    ],
)
def test_labels_beside_vectors_that_are_no_classes(tmp_path, labels, message):
    """As of `labels.npy`, and of the file that holds them."""
    for name, own in (("id.train", [0, 1, 2]), ("id.test", labels)):
        kind = pa.uint64() if max(own) >= 2**63 else pa.int64()
        rows = pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2))
        pq.write_table(pa.table({"vector": rows, "label": pa.array(own, kind)}), tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match=message):
        read_folder(tmp_path, {"id": ("train", "test")}, "id")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("near.test.npy", None, "near.test.npy: is missing; write the vectors of these images there"),
        ("labels.npy", None, "holds negatives.npy without labels.npy"),
        ("near.test.npy", b"\x93NUMPY\x01\x00", "near.test.npy: is no array that numpy.load can read"),
        ("classes.txt", b"a\nb\n", "classes.txt: names 2 classes, but there are 3"),
        ("classes.txt", b"\xff\xfe", "classes.txt: cannot be read as UTF-8"),
        ("params.yaml", b"sets: {far: {role: far}}", "0 sets have role id; one must"),
    ],
)
def test_a_command_that_cannot_work_says_why(tmp_path, capsys, name, content, message):
    path = write(tmp_path) / name
    path.unlink(missing_ok=True) if content is None else path.write_bytes(content)
    assert made(tmp_path) == 1
    assert message in capsys.readouterr().err


def test_the_file_is_found_by_the_name_of_the_model(tmp_path, capsys):
    values = {"vectors": write(tmp_path), "params": tmp_path / "params.yaml", "name": "clip"}
    assert call(vectors.main, **values, out=tmp_path / "other.safetensors") == 1
    assert "must end in clip.safetensors" in capsys.readouterr().err
