"""Detectors of vectors: their file has no network; scores are those of scikit-learn, to CSV and parquet."""

import csv

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import false_discovery_control
from sklearn.neighbors import NearestNeighbors

from sslood.core.errors import InputError
from sslood.core.files import load_tensors, save_tensors
from sslood.deploy.calibrated import calibrate, make_detector
from sslood.deploy.inputs import Inputs
from sslood.deploy.packed import checksum
from sslood.deploy.scorer import load_deployed, save_deployed
from sslood.deploy.tables.fitted import vector_card
from sslood.deploy.tables.reading import open_vectors
from sslood.deploy.tables.scored import score_table
from sslood.deploy.tables.writing import save_columns
from sslood.ood.kit.outputs import Outputs
from tests.kit.registries import example

WIDTH, K = 6, 5
RANDOM = np.random.default_rng(0)


def normal(count):
    return (1 + RANDOM.normal(size=(count, WIDTH)) * [1, 0.3, 0.3, 0.2, 0.1, 0.1]).astype(np.float32)


TRAIN, HELD = normal(300), normal(199)
NEW = np.concatenate([normal(60), -normal(20)])
NAMES = [f"a/{place:03}.jpg" for place in range(80)]


def deployed(path, name="knn", head=False, **settings):
    logits = [Inputs(Outputs("v", rows, logits=rows[:, :3] if head else None)) for rows in (TRAIN, HELD)]
    detector = make_detector(name, example(name, **settings).settings, seed=0, device="cpu")
    found = calibrate({name: detector}, *logits, alpha=0.05)
    classes = ["cat", "dog", "=cow"] if head else []
    save_deployed(path, {}, vector_card(WIDTH, classes, columns=["emb"], head=head), found)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return deployed(tmp_path_factory.mktemp("vectors") / "knn.safetensors", k=K)


def table(path, rows=NEW, **more):
    pq.write_table(
        pa.table({"path": NAMES, "emb": list(rows.astype(float)), **more}), path, row_group_size=13
    )
    return open_vectors(path)


def distances(rows):
    """The distance to the K-th nearest direction, by scikit-learn."""
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (TRAIN, rows)]
    return NearestNeighbors(n_neighbors=K).fit(unit[0]).kneighbors(unit[1])[0][:, -1]


def test_three_lines_of_python_score_vectors(file):
    scorer = load_deployed(file)
    decisions = scorer.decide_vectors(NEW)
    np.testing.assert_allclose(decisions.scores, distances(NEW), atol=1e-6)
    held = distances(HELD)
    expected = [(1 + (held >= score).sum()) / 200 for score in distances(NEW)]
    np.testing.assert_allclose(decisions.p_values, expected, atol=1 / 200 + 1e-12)
    np.testing.assert_array_equal(decisions.is_ood, decisions.p_values <= 0.05)
    assert decisions.is_ood[60:].all() and decisions.is_ood[:60].mean() < 0.15
    assert scorer.model is None and decisions.predicted == [""] * 80


@pytest.mark.parametrize("out", ["s.csv", "s.parquet"])
def test_a_table_becomes_a_table_of_scores(file, tmp_path, out):
    scorer = load_deployed(file)
    counts = score_table(scorer, table(tmp_path / "v.parquet"), tmp_path / out, batch_size=11)
    read = pd.read_csv if out.endswith("csv") else pd.read_parquet
    found = read(tmp_path / out)
    assert list(found) == ["path", "score", "p_value", "is_ood", "predicted_class"]
    expected = scorer.decide_vectors(NEW)
    assert found["path"].tolist() == NAMES
    np.testing.assert_array_equal(found["score"], expected.scores)  # to the last bit, CSV too
    np.testing.assert_array_equal(found["p_value"], expected.p_values)
    np.testing.assert_array_equal(found["is_ood"], expected.is_ood)
    assert (counts.total, counts.ood) == (80, expected.is_ood.sum())
    assert [path.name for path in tmp_path.iterdir() if "s." in path.name] == [out], "nothing partial is left"


@pytest.mark.parametrize("out", ["s.csv", "s.parquet"])
def test_all_are_judged_together(file, tmp_path, out):
    counts = score_table(
        load_deployed(file), table(tmp_path / "v.parquet"), tmp_path / out, fdr=0.1, batch_size=9
    )
    found = (pd.read_csv if out.endswith("csv") else pd.read_parquet)(tmp_path / out)
    expected = false_discovery_control(load_deployed(file).decide_vectors(NEW).p_values) <= 0.1
    np.testing.assert_array_equal(found["is_ood"], expected)
    assert counts.ood == expected.sum() >= 20


def test_ids_keep_their_type_in_parquet_and_give_no_orders_in_csv(file, tmp_path):
    scorer, rows = load_deployed(file), NEW[:2]
    numbered = pa.table({"id": [7, 2**53 + 1], "emb": list(rows.astype(float))})
    pq.write_table(numbered, tmp_path / "v.parquet")
    score_table(scorer, open_vectors(tmp_path / "v.parquet"), tmp_path / "s.parquet")
    assert pq.read_table(tmp_path / "s.parquet")["path"].to_pylist() == [7, 2**53 + 1]
    pq.write_table(
        pa.table({"id": ["=1+1", "a%41\n"], "emb": list(rows.astype(float))}), tmp_path / "w.parquet"
    )
    score_table(scorer, open_vectors(tmp_path / "w.parquet"), tmp_path / "s.csv")
    with open(tmp_path / "s.csv", newline="") as lines:
        assert [row["path"] for row in csv.DictReader(lines)] == ["%3D1+1", "a%2541%0A"]
    score_table(scorer, open_vectors(tmp_path / "w.parquet"), tmp_path / "s.parquet")
    assert pq.read_table(tmp_path / "s.parquet")["path"].to_pylist() == ["=1+1", "a%41\n"]


def test_names_that_are_not_utf8_can_stand_in_parquet(tmp_path):
    values = {"path": ["a/\udcff.jpg", "%41.jpg"], "score": np.array([0.5, 1])}
    save_columns(tmp_path / "s.parquet", values)
    assert pq.read_table(tmp_path / "s.parquet")["path"].to_pylist() == ["a/%FF.jpg", "%41.jpg"]


def test_logits_give_detectors_and_classes(tmp_path):
    path = deployed(tmp_path / "d.safetensors", "energy", head=True)
    decisions = load_deployed(path).decide_vectors(NEW, NEW[:, :3])
    np.testing.assert_allclose(decisions.scores, -np.log(np.exp(NEW[:, :3].astype(float)).sum(1)), rtol=1e-6)
    names = np.array(["cat", "dog", "=cow"])[NEW[:, :3].argmax(1)]
    assert decisions.predicted == names.tolist()
    with pytest.raises(InputError, match="reads logits"):
        load_deployed(path).decide_vectors(NEW)
    with pytest.raises(InputError, match="logits are 2 wide, but the detector knows 3 classes"):
        load_deployed(path).decide_vectors(NEW, NEW[:, :2])
    columns = {"emb": list(NEW.astype(float)), "logits": list(NEW[:, :3].astype(float))}
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    score_table(
        load_deployed(path), open_vectors(tmp_path / "v.parquet", logits="logits"), tmp_path / "s.csv"
    )
    assert pd.read_csv(tmp_path / "s.csv")["predicted_class"].tolist() == [
        name.replace("=", "%3D") for name in names
    ]


def test_rows_that_end_a_run_leave_those_before(file, tmp_path):
    rows = NEW.copy()
    rows[50] = np.nan
    for out, read in (("s.csv", pd.read_csv), ("s.parquet", pd.read_parquet)):
        with pytest.raises(InputError, match=r"row 50 .*; the 48 rows scored before it are in .*partial"):
            score_table(
                load_deployed(file), table(tmp_path / "v.parquet", rows), tmp_path / out, batch_size=16
            )
        (tmp_path / f"{out}.partial").rename(tmp_path / f"partial-{out}")
        found = read(tmp_path / f"partial-{out}")
        np.testing.assert_array_equal(found["score"], load_deployed(file).decide_vectors(rows[:48]).scores)
        assert not (tmp_path / out).exists()


@pytest.mark.parametrize("out, read", [("s.csv", pd.read_csv), ("s.parquet", pd.read_parquet)])
def test_rows_scored_before_an_interrupt_can_be_read(file, tmp_path, capsys, out, read):
    done = []

    def interrupt(count):
        done.append(count)
        if sum(done) > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_table(
            load_deployed(file),
            table(tmp_path / "v.parquet"),
            tmp_path / out,
            batch_size=13,
            progress=interrupt,
        )
    assert f"The {sum(done)} rows scored so far are in" in capsys.readouterr().err
    (tmp_path / f"{out}.partial").rename(tmp_path / f"partial-{out}")
    assert read(tmp_path / f"partial-{out}")["path"].tolist() == NAMES[: sum(done)]


@pytest.mark.parametrize("out, read", [("s.csv", pd.read_csv), ("s.parquet", pd.read_parquet)])
def test_rows_of_an_earlier_run_outlast_the_next_one(file, tmp_path, capsys, out, read):
    rows = NEW.copy()
    for bad in (50, 20):
        rows[bad] = np.nan
        with pytest.raises(InputError, match="rows scored before it are in"):
            vectors = table(tmp_path / "v.parquet", rows)
            score_table(load_deployed(file), vectors, tmp_path / out, batch_size=16)
    assert (
        f"left in {tmp_path}/{out}.partial are now in {tmp_path}/{out}.partial.1" in capsys.readouterr().err
    )
    for name, count in (("first", 48), ("second", 16)):
        kept = tmp_path / f"{out}.partial{'.1' if name == 'first' else ''}"
        assert len(read(kept.rename(tmp_path / f"{name}-{out}"))) == count


@pytest.mark.parametrize("out, read", [("s.csv", pd.read_csv), ("s.parquet", pd.read_parquet)])
@pytest.mark.parametrize("fdr", [None, 0.5])
def test_a_second_run_that_writes_the_same_table_is_refused(file, tmp_path, out, read, fdr):
    def run(progress):
        vectors = table(tmp_path / "v.parquet")
        score_table(load_deployed(file), vectors, tmp_path / out, fdr=fdr, batch_size=13, progress=progress)

    def meanwhile(count):
        with pytest.raises(InputError, match="partial: another run is writing it; wait until it is done"):
            run(print)

    run(meanwhile)
    assert read(tmp_path / out)["path"].tolist() == NAMES
    run(print)
    assert not (tmp_path / f"{out}.partial").exists()


def test_vectors_of_another_model_are_refused(file, tmp_path):
    scorer = load_deployed(file)
    with pytest.raises(
        InputError,
        match="v.parquet: vectors are 4 wide, but the detector was fitted to vectors that are 6 wide",
    ):
        score_table(scorer, table(tmp_path / "v.parquet", NEW[:, :4]), tmp_path / "s.csv")
    with pytest.raises(InputError, match=r"vectors must have the shape \(N, 6\), found \(80, 4\)"):
        scorer.decide_vectors(NEW[:, :4])
    with pytest.raises(InputError, match="fitted to vectors and has no network, so it cannot see pictures"):
        scorer.decide(np.zeros((1, 1, 1, 1), np.uint8))


def lie(file, path, change):
    arrays, content = load_tensors(file)
    arrays = {key: np.array(array) for key, array in arrays.items()}
    change(arrays, content)
    content["checksum"] = checksum(arrays, content)
    save_tensors(path, arrays, kind="detector", metadata=content)
    return path


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a, c: a.update({"detector.knn.bank": a["detector.knn.bank"][::-1] * -1}), "scores two fixed"),
        (
            lambda a, c: a.update({"model.weight": np.zeros(2, np.float32)}),
            "weight '.*' is not that of a classifier",
        ),
        (lambda a, c: c["model_metadata"].update(feature_dim=0), "the model's size cannot be"),
        (lambda a, c: c["model_metadata"].pop("head_classes"), "d.safetensors"),
        (lambda a, c: c["model_metadata"].update(feature_dim=7), "d.safetensors"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(file, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        load_deployed(lie(file, tmp_path / "d.safetensors", change))
