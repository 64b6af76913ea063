"""`fit --vectors`: from files of vectors to a detector file, against the arrays and scikit-learn."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.covariance import EmpiricalCovariance
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from sslood.commands import fit, score
from sslood.core.errors import InputError
from sslood.deploy.normal.split import split_normal
from sslood.deploy.scorer import load_deployed
from sslood.deploy.tables.examples import groups_of
from sslood.deploy.tables.fitted import fit_vectors, save_vectors
from tests.kit.small import call

WIDTH, COUNT = 8, 180
NAMES = ["ant", "bee", "cat"]
CENTRES = 4 * np.eye(3, WIDTH)


def drawn(count, centres=CENTRES, seed=0):
    """Vectors about the centres of three classes in turn, and their classes."""
    of = np.arange(count) % len(centres)
    return (centres[of] + np.random.default_rng(seed).normal(size=(count, WIDTH))).astype(np.float32), of


NORMAL, OF = drawn(COUNT)
NEW, NEW_OF = drawn(300, seed=1)
ODD = drawn(60, -CENTRES, seed=2)[0]


def write(path, rows=NORMAL, **more):
    columns = {"id": [f"n{at}" for at in range(len(rows))], **{f"x{at}": rows[:, at] for at in range(WIDTH)}}
    pq.write_table(pa.table(columns | more), path)
    return path


def run(tmp_path, **more):
    values = {"alpha": 0.1, "out": tmp_path / "d.safetensors"}
    return call(fit.main, **{key: value for key, value in (values | more).items() if value is not None})


def test_a_parquet_of_dimensions_becomes_a_detector_of_neighbours(tmp_path, capsys):
    """Decisions are those of scikit-learn's neighbours among the rows that teach, calibrated by hand."""
    assert run(tmp_path, vectors=write(tmp_path / "n.parquet")) == 0
    scorer = load_deployed(tmp_path / "d.safetensors")
    knn = scorer.calibrated.detector
    unit = NORMAL / np.linalg.norm(NORMAL, axis=1, keepdims=True)
    bank = knn.state["bank"]
    nearest = NearestNeighbors(n_neighbors=1).fit(bank).kneighbors(unit)[0][:, 0]
    taught = nearest < 1e-6
    count = scorer.calibrated.threshold.images
    assert taught.sum() == len(bank) == COUNT - count
    search = NearestNeighbors(n_neighbors=knn.settings.k).fit(bank)
    held = search.kneighbors(unit[~taught])[0][:, -1]
    np.testing.assert_allclose(scorer.calibrated.calibration, np.sort(held), atol=1e-6)
    scores = search.kneighbors(ODD / np.linalg.norm(ODD, axis=1, keepdims=True))[0][:, -1]
    np.testing.assert_allclose(scorer.decide_vectors(ODD).scores, scores, atol=1e-6)
    said = capsys.readouterr()
    assert f"{len(bank)} normal vectors teach, {count} calibrate." in said.out
    assert "knn on n, OOD is above" in said.out and "what it catches was not measured" in said.err
    # a table with its columns in another order, and one more, is read alike
    more = pa.table({"age": NEW[:, 0], **{f"x{at}": NEW[:, at] for at in reversed(range(WIDTH))}})
    pq.write_table(more, tmp_path / "new.parquet")
    places = {"detector": tmp_path / "d.safetensors", "vectors": tmp_path / "new.parquet"}
    assert call(score.main, **places, out=tmp_path / "s.parquet") == 0
    found = pd.read_parquet(tmp_path / "s.parquet")
    np.testing.assert_array_equal(found["score"], scorer.decide_vectors(NEW).scores)
    assert found["path"].tolist() == list(range(300))
    assert 0.02 < found["is_ood"].mean() < 0.25, "alpha 0.1 from 54 vectors"


def test_classes_teach_a_classifier_that_the_file_keeps(tmp_path, capsys):
    labels = [NAMES[at] for at in OF]
    path = write(tmp_path / "n.parquet", kind=labels)
    assert run(tmp_path, vectors=path, labels="kind") == 0
    found = load_deployed(tmp_path / "d.safetensors")
    decisions = found.decide_vectors(np.concatenate([NEW, ODD]))
    theirs = LogisticRegression().fit(NORMAL, labels).predict(NEW)
    assert np.mean(np.array(decisions.predicted[:300]) == theirs) > 0.98
    assert np.mean(np.array(decisions.predicted[:300]) == np.array(NAMES)[NEW_OF]) > 0.97
    assert decisions.is_ood[:300].mean() < 0.25 and decisions.is_ood[300:].mean() > 0.7
    assert "get the right class of 3" in capsys.readouterr().out
    # the same from arrays, to the byte
    save_vectors(tmp_path / "n.safetensors", fit_vectors(NORMAL, labels, alpha=0.1))
    again = load_deployed(tmp_path / "n.safetensors").decide_vectors(np.concatenate([NEW, ODD]))
    np.testing.assert_array_equal(again.scores, decisions.scores)


def test_logits_of_the_model_itself_are_used_and_kept_apart(tmp_path):
    """Logits are given when scoring, too; classes stand in their order, not in that of the alphabet."""
    logits = NORMAL[:, :3] @ np.diag([3, 3, 3]).astype(np.float32)
    np.save(tmp_path / "n.npy", NORMAL)
    np.save(tmp_path / "u.npy", logits)
    (tmp_path / "classes.txt").write_text("cat\nbee\nant\n")
    (tmp_path / "labels.txt").write_text("".join(f"{('cat', 'bee', 'ant')[at]}\n" for at in OF))
    files = {"vectors": tmp_path / "n.npy", "logits": tmp_path / "u.npy", "labels": tmp_path / "labels.txt"}
    assert run(tmp_path, **files, classes=tmp_path / "classes.txt", detector=["energy", "knn"]) == 0
    found = load_deployed(tmp_path / "d.safetensors")
    assert found.head is None and list(found.calibrated.detectors) == ["energy", "knn"]
    predicted = found.decide_vectors(NEW, NEW[:, :3] * 3).predicted
    assert predicted == np.array(["cat", "bee", "ant"])[NEW[:, :3].argmax(1)].tolist()
    with pytest.raises(InputError, match="reads logits"):
        found.decide_vectors(NEW)


def test_known_bad_vectors_are_learned_from(tmp_path, capsys):
    """A kind of odd vectors that lies within the classes' reach is found once a few of them are known."""
    strange = (CENTRES[0] + CENTRES[1]) / 1.7
    rows = drawn(40, strange[None] * np.ones((1, WIDTH)) + [0, 0, 0, 1.5, 0, 0, 0, 0], seed=3)[0]
    write(tmp_path / "bad.parquet", rows[:20])
    paths = {"vectors": write(tmp_path / "n.parquet"), "bad": tmp_path / "bad.parquet"}
    assert run(tmp_path, **paths) == 0
    found = load_deployed(tmp_path / "d.safetensors")
    assert "known_bad" in found.calibrated.detectors and "Called OOD:" in capsys.readouterr().out
    without = fit_vectors(NORMAL, alpha=0.1).decide_vectors(rows[20:]).is_ood.mean()
    assert found.decide_vectors(rows[20:]).is_ood.mean() > without
    assert found.decide_vectors(NEW).is_ood.mean() < 0.25


def test_what_it_catches_is_measured_on_odd_vectors(tmp_path, capsys):
    write(tmp_path / "far.parquet", ODD)
    write(tmp_path / "like.parquet", NEW)
    odd = [tmp_path / "far.parquet", tmp_path / "like.parquet"]
    assert run(tmp_path, vectors=write(tmp_path / "n.parquet"), odd=odd) == 0
    scorer = load_deployed(tmp_path / "d.safetensors")
    shares = [scorer.decide_vectors(rows).is_ood.mean() for rows in (ODD, NEW)]
    assert [(one.name, one.images, one.share) for one in scorer.calibrated.catches] == [
        ("far", 60, shares[0]), ("like", 300, shares[1]),
    ]  # fmt: skip
    said = capsys.readouterr()
    assert f"Called OOD: {shares[0]:.0%} of far (far, 60 images), {shares[1]:.0%} of like" in said.out
    assert "DO NOT RELY ON IT for pictures like like" in said.out and "below the floor of 50%" in said.err


def test_equal_vectors_stay_on_one_side(tmp_path):
    """Copies on both sides would have distance 0, and the threshold would promise what does not hold."""
    scorer = fit_vectors(np.repeat(NORMAL, 3, axis=0), alpha=0.1, detector="knn")
    assert scorer.calibrated.threshold.images < COUNT and scorer.calibrated.calibration.min() > 0.01


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"vectors": NORMAL[:1]}, "1 vector is too few for alpha 0.1, which needs 19"),
        ({"vectors": NORMAL[:12]}, "12 vectors are too few for alpha 0.1, which needs 19"),
        ({"labels": OF[:5]}, r"labels have the shape \(5,\), where there are 180 vectors"),
        (
            {"labels": OF / 2},
            "row 0 .*: has the label 0.0 in the column 'labels'; labels are texts or whole numbers",
        ),
        (
            {"labels": [NAMES[at] for at in OF], "logits": NORMAL[:, :3]},
            "labels are texts, so it is not known",
        ),
        ({"labels": OF + 1, "logits": NORMAL[:, :3]}, "label 3 is no class; there are 0, 1, 2"),
        ({"logits": NORMAL[:, :3], "classes": NAMES[:2]}, "logits are 3 wide, but there are 2 classes"),
        (
            {"vectors": np.full_like(NORMAL, np.nan)},
            r"rows 0 \(ID 0\), 1 \(ID 1\), 2 \(ID 2\), …: NaN or inf",
        ),
        ({"bad": {"bad": ODD[:, :5]}}, "'bad' have 5 features, normal ones 8; take both from one network"),
    ],
)
def test_arrays_that_cannot_be_fitted(arrays, message):
    with pytest.raises(InputError, match=message):
        fit_vectors(**({"vectors": NORMAL, "alpha": 0.1} | arrays))


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "give --images or --vectors, what is normal, and not both"),
        ({"vectors": "n.npy", "backbone": "resnet50"}, "--backbone is of --images; omit it with --vectors"),
        ({"images": "n", "labels": "y"}, "--labels is of --vectors; omit it with --images"),
        ({"vectors": "n.npy", "detector": ["auto", "knn"]}, "--detector auto chooses by itself; omit it, or"),
        ({"vectors": "n.npy", "detector": ["knn", "knn"]}, "--detector names one twice: knn, knn"),
        ({"vectors": "n.npy", "labels": "y"}, "n.npy: no 'y' for the labels; it holds the array"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "n.npy", NORMAL)
    assert run(tmp_path, **options) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["vectors", "bad", "odd", "classes", "ids", "labels", "logits", "weights"])
def test_what_is_read_is_not_overwritten(tmp_path, capsys, option):
    (tmp_path / "mine.npy").write_bytes(b"precious")
    read_from = {"vectors": write(tmp_path / "v.parquet")} | {option: str(tmp_path / "mine.npy")}
    assert call(fit.main, **read_from, out=tmp_path / "mine.npy") == 1
    assert f"--{option} and --out name one file" in capsys.readouterr().err
    assert (tmp_path / "mine.npy").read_bytes() == b"precious"


def test_vectors_have_no_second_look(tmp_path, capsys):
    given = {"vectors": tmp_path / "n.npy", "alpha": 0.1, "out": tmp_path / "d.safetensors"}
    assert call(fit.main, **given, mirror=None) == 1
    assert "--mirror is of --images; omit it with --vectors" in capsys.readouterr().err


def test_given_settings_take_the_place_of_chosen_ones(tmp_path, capsys):
    """Not divided by their lengths, vectors have scikit-learn's distances, and longer ones are found."""
    rows = np.random.default_rng(3).normal(size=(400, WIDTH)).astype(np.float32)
    table, long = write(tmp_path / "n.parquet", rows), 3 * rows[:100]
    assert run(tmp_path, vectors=table) == 0
    assert "only the direction of a vector counts" in capsys.readouterr().err
    assert load_deployed(tmp_path / "d.safetensors").decide_vectors(long).is_ood.mean() < 0.3
    given = {"detector": "mahalanobis", "set": ["mahalanobis.beta=0", "mahalanobis.ridge=0"]}
    assert run(tmp_path, vectors=table, **given) == 0
    said = capsys.readouterr()
    assert "ridge = 0.0 (given); beta = 0.0 (given)" in said.out and "directions" not in said.err
    decided = load_deployed(tmp_path / "d.safetensors").decide_vectors(long)
    assert decided.is_ood.mean() > 0.7
    taught = split_normal(400, alpha=0.1, seed=0, groups=groups_of(rows), what="vectors").fit
    theirs = EmpiricalCovariance().fit(rows[taught]).mahalanobis(long)
    np.testing.assert_allclose(decided.scores, theirs, rtol=1e-4)


def test_a_given_setting_is_one_of_a_named_detector(tmp_path, capsys):
    table = write(tmp_path / "n.parquet")
    assert run(tmp_path, vectors=table, set=["knn.k=3"]) == 1
    assert "--set knn.k=3: name its detector by --detector" in capsys.readouterr().err
    assert run(tmp_path, vectors=table, detector="knn", set=["gmm.ridge=1"]) == 1
    assert "unknown detector in --set: 'gmm'" in capsys.readouterr().err
    assert run(tmp_path, vectors=table, detector="knn", set=["knn.k=3"]) == 0
    assert "k = 3 (given)" in capsys.readouterr().out
    assert not (tmp_path / "d.safetensors.partial").exists()


def test_from_python_a_setting_may_be_given_of_what_is_chosen():
    scorer = fit_vectors(NORMAL, alpha=0.1, given={"knn": {"k": 3}})
    assert scorer.calibrated.detector.settings.k == 3
    assert scorer.calibrated.origins["knn"].sources == {"k": "given"}
