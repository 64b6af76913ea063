"""A detector fitted file by file equals the one that is fitted to all rows at once."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sslood.commands import fit_shards as command
from sslood.core.errors import InputError
from sslood.deploy.calibrated import DETECTORS
from sslood.deploy.engine import shards
from sslood.deploy.engine.shards import calibrates, fit_shards, open_vectors
from sslood.deploy.scorer import load_deployed
from sslood.ood.kit.outputs import Head, Outputs
from tests.kit.small import call

RNG = np.random.default_rng(3)
COUNT, WIDTH, CLASSES = 900, 6, 3
LABELS = RNG.integers(0, CLASSES, COUNT)
FEATURES = (RNG.normal(size=(COUNT, WIDTH)) + 3 * RNG.normal(size=(CLASSES, WIDTH))[LABELS]).astype("f4")
PATHS = [f"folder/{number}.jpg" for number in range(COUNT)]
HEAD = Head(RNG.normal(size=(CLASSES, WIDTH)).astype("f4"), RNG.normal(size=CLASSES).astype("f4"))


def write(folder: Path, cuts: list[int], order: np.ndarray) -> str:
    """Write rows in an order, cut into files; among them one that could not be read."""
    folder.mkdir()
    logits = HEAD.logits(FEATURES).astype("f4")
    for number, rows in enumerate(np.split(order, cuts)):
        columns = {"path": [PATHS[row] for row in rows], "label": [f"class {LABELS[row]}" for row in rows]}
        columns |= {
            name: [*map(list, array[rows])] for name, array in (("features", FEATURES), ("logits", logits))
        }
        unread = {"path": ["unread.jpg"], "label": [None], "features": [None], "logits": [None]}
        columns = {name: values + unread[name] for name, values in columns.items()}
        kinds = [pa.string(), pa.string(), pa.list_(pa.float32()), pa.list_(pa.float32())]
        table = pa.table({k: pa.array(v, t) for (k, v), t in zip(columns.items(), kinds, strict=True)})
        pq.write_table(table, folder / f"part-{number:06d}.parquet")
    return str(folder)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return write(tmp_path_factory.mktemp("one") / "v", [], np.arange(COUNT))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return write(
        tmp_path_factory.mktemp("many") / "v", [5, 400, 410], np.random.default_rng(0).permutation(COUNT)
    )


@pytest.mark.parametrize(
    ("name", "label"),
    [("mahalanobis", None), ("mahalanobis", "label"), ("knn", None), ("vim", None), ("gmm", "label")],
)
def test_any_sharding_gives_the_detector_of_all_rows(one, many, name, label):
    whole = fit_shards(open_vectors(one, label, HEAD, None), name, alpha=0.05)
    found = fit_shards(open_vectors(many, label, HEAD, None), name, alpha=0.05)
    np.testing.assert_allclose(found.calibration, whole.calibration, rtol=1e-6)
    held = calibrates(PATHS, shards.SHARE)
    assert len(found.calibration) == held.sum() and abs(held.mean() - 0.2) < 0.05
    given = {"labels": LABELS if label else np.zeros(COUNT, int), "classes": CLASSES if label else 1}
    parts = {"features": FEATURES, "logits": HEAD.logits(FEATURES).astype("f4"), "labels": given["labels"]}
    train, rest = (
        Outputs("all", **{k: a[rows] for k, a in parts.items()}, classes=given["classes"], head=HEAD)
        for rows in (~held, held)
    )
    own = DETECTORS[name]().fit(train)  # as anybody fits it
    np.testing.assert_allclose(np.sort(own.score(rest)), found.calibration, rtol=1e-6)


def test_the_command_writes_a_file_that_decides(tmp_path, detector, capsys):
    from sslood.commands import bulk
    from tests.kit.small import digit_images

    folder = tmp_path / "in"
    folder.mkdir()
    from PIL import Image

    images, labels = digit_images()
    for number in range(200):
        Image.fromarray(images[number, 0]).save(folder / f"{number}.png")
    assert call(bulk.main, model=detector, images=folder, out=tmp_path / "v") == 0
    out = tmp_path / "mine.safetensors"
    given = {"vectors": tmp_path / "v", "model": detector, "out": out, "detector": "knn", "set": "knn.k=3"}
    assert call(command.main, **given, alpha=0.1) == 0
    found = capsys.readouterr()
    said = found.out
    scorer = load_deployed(out)
    count = len(scorer.calibrated.calibration)
    assert f"Warning: only {count} calibration images" in found.err and "was not measured: only" in found.err
    assert f"from {count} vectors)" in said and 20 < count < 60
    held = calibrates([f"{number}.png" for number in range(200)], shards.SHARE)
    found = scorer.decide(images[:200][held])
    np.testing.assert_allclose(np.sort(found.scores), scorer.calibrated.calibration, rtol=1e-4)
    assert scorer.decide(images[:200][~held]).scores.mean() < found.scores.mean()  # it has seen these


def test_a_part_of_unreadable_pictures_alone_is_passed_over(tmp_path):
    """`bulk` writes one where nothing else is new."""
    kinds = {"path": pa.string(), "features": pa.list_(pa.float32())}
    rows = {"part-0": (PATHS, FEATURES.tolist()), "part-1": (["unread.jpg"], [None])}
    found = []
    for name, columns in rows.items():
        arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds.values(), strict=True)]
        pq.write_table(pa.table(dict(zip(kinds, arrays, strict=True))), tmp_path / f"{name}.parquet")
        found.append(fit_shards(open_vectors(str(tmp_path), None, HEAD, None), "vim", alpha=0.05))
    np.testing.assert_array_equal(found[0].calibration, found[1].calibration)


@pytest.mark.parametrize(("name", "label"), [("mahalanobis", None), ("rmds", "label"), ("gmm", "label")])
def test_fewer_vectors_than_dimensions_are_refused_unless_smoothed(tmp_path, name, label):
    """Twelve rows do not span 12 dimensions around a mean: along the rest, distances are the ridge alone."""
    rng, count = np.random.default_rng(0), 12
    table = {"path": [*map(str, range(count))], "label": [*"abc"] * 4}
    table["features"] = [*map(list, rng.normal(size=(count, 12)).astype("f4"))]
    pq.write_table(pa.table(table), tmp_path / "few.parquet")
    vectors = open_vectors(f"{tmp_path}/few.parquet", label, None, None)
    kind = DETECTORS[name]
    with pytest.raises(
        InputError, match=rf"{name} learns a covariance of 12 dimensions from \d+ vectors, too"
    ):
        fit_shards(vectors, name, kind.Settings(ridge=1e-4), alpha=0.5)
    found = fit_shards(vectors, name, kind.Settings(ridge=0.1), alpha=0.5)
    assert np.isfinite(found.calibration).all()


def test_rows_may_be_called_by_numbers(tmp_path):
    found = []
    for kind in (int, str):
        table = {"path": [*map(kind, range(COUNT))], "features": [*map(list, FEATURES)]}
        pq.write_table(pa.table(table), tmp_path / "v.parquet")
        found.append(fit_shards(open_vectors(f"{tmp_path}/v.parquet", None, None, None), "knn", alpha=0.05))
    np.testing.assert_array_equal(found[0].calibration, found[1].calibration)


@pytest.mark.parametrize("kind", ["int64", "bool", "category"])
def test_labels_of_any_kind_name_the_classes_that_texts_do(tmp_path, kind):
    table = pa.table({"path": PATHS, "label": pa.array(LABELS % 2), "features": list(FEATURES)})
    labels = pa.array((LABELS % 2).astype(bool)) if kind == "bool" else table["label"]
    labels = labels.cast(pa.string()).dictionary_encode() if kind == "category" else labels
    pq.write_table(table.set_column(1, "label", labels), tmp_path / "v.parquet")
    pq.write_table(table.set_column(1, "label", table["label"].cast(pa.string())), tmp_path / "t.parquet")
    found, texts = (open_vectors(f"{tmp_path}/{name}.parquet", "label", None, None) for name in "vt")
    assert found.classes == (("false", "true") if kind == "bool" else ("0", "1"))
    scores = [fit_shards(some, "mahalanobis", alpha=0.05).calibration for some in (found, texts)]
    np.testing.assert_array_equal(*scores)
    fractions = table.set_column(1, "label", table["label"].cast(pa.float64()))
    pq.write_table(fractions, tmp_path / "v.parquet")
    with pytest.raises(InputError, match="'label' holds fractions; write labels as texts or whole"):
        open_vectors(f"{tmp_path}/v.parquet", "label", None, None)


def test_what_cannot_be_fitted_is_refused(tmp_path, many):
    vectors = open_vectors(many, None, HEAD, None)
    with pytest.raises(InputError, match="msp is not fitted by sums that merge; use one of .*knn, maha"):
        fit_shards(vectors, "msp", alpha=0.05)
    with pytest.raises(InputError, match="needs at least 999 calibration vectors; a share of 20% of 900 is"):
        fit_shards(vectors, "knn", alpha=0.001)
    with pytest.raises(InputError, match="no column 'camera'; its columns are path, label, features, logits"):
        open_vectors(many, "camera", HEAD, None)
    for paths, words in {
        ("a", None) * 450: "a row with a vector has the path None; give each a text or a whole number",
        (0.5, 1.5) * 450: "a row with a vector has the path 0.5; give each",
    }.items():
        pq.write_table(
            pa.table({"path": paths, "features": [*map(list, FEATURES)]}), tmp_path / "bad.parquet"
        )
        with pytest.raises(InputError, match=f"bad.parquet: {words}"):
            fit_shards(open_vectors(f"{tmp_path}/bad.parquet", None, None, None), "knn", alpha=0.05)
    for rows, words in {
        ((1.0, np.nan),) * 10: "the features of 10 of 10 images are NaN",
        ((1.0, 2.0),) * 9 + ((1.0,),): "the vectors in 'features' are not all equally wide",
    }.items():
        table = pa.table({"path": [*map(str, range(10))], "features": [*map(list, rows)]})
        pq.write_table(table, tmp_path / "bad.parquet")
        with pytest.raises(InputError, match=f"bad.parquet: {words}"):
            fit_shards(open_vectors(f"{tmp_path}/bad.parquet", None, None, None), "knn", alpha=0.5)
