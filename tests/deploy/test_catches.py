"""What a detector catches of the run's test sets: measured, kept, and said where it is too little."""

import os

import numpy as np
import pytest
from scipy.stats import beta

from sslood.commands import deploy, score
from sslood.core.files import load_tensors, save_tensors
from sslood.deploy.calibrated import calibrate
from sslood.deploy.catches import (
    Catch,
    control_share,
    few_images,
    in_a_phrase,
    measure_catches,
    read_control,
    warnings,
)
from sslood.deploy.inputs import Inputs
from sslood.deploy.scorer import load_deployed
from sslood.ood.kit.outputs import Outputs
from sslood.ood.measures.conformal import conformal_threshold
from tests.deploy.test_calibrated import Column
from tests.deploy.test_deployment import deployed, scored, write_deployment
from tests.kit.small import call

GOOD = conformal_threshold(np.arange(999.0), 0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_deployment(tmp_path_factory.mktemp("catches"))


def outputs(values):
    return Inputs(Outputs("x", np.asarray(values, float)[:, None]))


def test_shares_are_those_of_the_images_above_the_threshold():
    rule = calibrate({"0": Column(0)}, outputs([0]), outputs(np.arange(99)), alpha=0.1)
    assert rule.threshold.value == 89
    tests = {"own": ("id", outputs([0, 89, 90])), "far off": ("far", outputs(np.arange(80, 100)))}
    found = measure_catches(
        lambda part: rule.is_ood(rule.score(part)), tests, {"far off": {20: 0.25, 21: 1.0}}
    )
    assert found == [Catch("own", "id", 3, 1 / 3), Catch("far off", "far", 20, 0.5, 0.25)]


def test_of_a_large_set_some_images_are_judged_at_even_steps():
    judged = []

    def judge(part):
        judged.append(part.outputs.features[:, 0])
        return judged[-1] >= 3000

    (found,) = measure_catches(judge, {"s": ("near", outputs(np.arange(5000)))}, {})
    np.testing.assert_array_equal(judged[0], np.arange(0, 5000, 3))
    assert (found.images, found.share) == (1667, pytest.approx(0.4, abs=1e-3))


def test_the_control_takes_its_better_direction():
    random = np.random.default_rng(0)
    inside, smooth, rough = random.random(199), random.random(50) - 0.99, random.random(50) + 0.5
    assert control_share(inside, smooth, 0.05) > 0.9
    value = conformal_threshold(inside, 0.05).value
    assert control_share(inside, rough, 0.05) == (rough > value).mean()


def test_the_control_comes_from_the_audit_of_this_id_set(tmp_path):
    arrays = {"own.artefact": np.arange(99.0), "other.artefact": np.array([98.0, 99.0, 100.0, 50.0])}
    sets = {"own": {}, "other": {}}
    save_tensors(
        tmp_path / "a.safetensors",
        arrays,
        kind="audit",
        metadata={"id": "own", "sets": sets},
    )
    assert read_control(tmp_path / "a.safetensors", "own", 0.05) == {"other": {4: 0.75}}
    assert read_control(tmp_path / "a.safetensors", "else", 0.05) == {}
    assert read_control(tmp_path / "a.safetensors", "own", 0.001) == {}
    assert read_control(tmp_path / "none.safetensors", "own", 0.05) == {}


@pytest.mark.parametrize(
    ("catch", "says"),
    [
        (Catch("photos", "near", 40, 0.5), []),
        (
            Catch("photos", "near", 40, 0.49),
            ["49% of photos (near, 40 images), below the floor of 50%"],
        ),
        (Catch("photos", "far", 40, 0.025), ["below the floor of 50%", "about as many as of ID itself"]),
        (Catch("photos", "far", 40, 0.9, 0.9), ["artefact control", "catches 90% of photos (it: 90%)"]),
        (Catch("photos", "far", 40, 0.9, 0.89), []),
        (Catch("photos", "near", 40, 0.3, 0.4), ["below the floor", "artefact control"]),
        (Catch("own", "id", 1000, 0.06), []),
        (Catch("own", "id", 1000, 0.14), ["it calls 14% of own (id, 1000 images) OOD, where"]),
    ],
)
def test_what_deserves_no_trust_is_said(catch, says):
    found = warnings([catch], GOOD)
    assert bool(found) == bool(says) and all(text in " ".join(found) for text in says)


def test_a_phrase_names_the_hardest_set_of_each_role():
    near = [Catch("a", "near", 40, 0.7), Catch("b", "near", 40, 0.6)]
    far = [Catch("c", "far", 40, 1.0)]
    assert in_a_phrase(far + near) == "of pictures like b it catches about 60%, like c about 100%"
    assert in_a_phrase([Catch("b", "near", 9, 0.1)]).endswith(
        "like b it catches about 10%: DO NOT RELY ON IT for pictures like b"
    )
    assert in_a_phrase([Catch("own", "id", 9, 0.1)]) == "what it catches was not measured"


def test_what_few_calibration_images_still_allow_is_said():
    assert few_images(conformal_threshold(np.arange(200.0), 0.05)) == []
    (text,) = few_images(conformal_threshold(np.arange(99.0), 0.05), ranks=50)
    assert (
        "only 99 calibration images: no p-value can be below 0.01, so a smaller --fdr finds nothing" in text
    )
    assert "ranks its detectors among 50 images only" in text
    low, high = beta.ppf([0.025, 0.975], 5, 95)
    assert f"the share of ID called OOD may be {low:.1%} to {high:.1%}" in text


def test_deploy_measures_says_and_keeps_what_it_catches(folder, tmp_path, capsys):
    assert deployed(folder, "knn") == 0
    said = capsys.readouterr()
    scorer = load_deployed(folder / "d.safetensors")
    assert [(one.name, one.role, one.images) for one in scorer.calibrated.catches] == [
        ("digits", "id", 200), ("heldout", "near", 354), ("noise", "far", 50),
    ]  # fmt: skip
    for one in scorer.calibrated.catches:
        images = load_tensors(folder / f"{one.name}.safetensors")[0]["test.images"]
        assert one.share == pytest.approx(scorer.decide(images).is_ood.mean(), abs=0.01)
    near, far = scorer.calibrated.catches[1:]
    assert near.share < 0.5 < far.share, "an untrained network: a detector that must not be relied on"
    phrase = f"of pictures like heldout it catches about {near.share:.0%}, like noise about {far.share:.0%}"
    phrase += ": DO NOT RELY ON IT for pictures like heldout."
    assert said.out.endswith(f"{phrase}\n") and f"Called OOD: {scorer.calibrated.catches[0]}" in said.out
    warning = f"Warning: it catches {near}, below the floor of 50%"
    assert warning in said.err and "Warning: only 100 calibration images" in said.err
    assert scored(folder, tmp_path, html=tmp_path / "page.html")[0] == 0
    said = capsys.readouterr()
    assert said.out.endswith(f"{phrase}\n") and warning in said.err
    page = (tmp_path / "page.html").read_text()
    assert (
        page.index('role="alert"')
        < page.index("<strong>Of pictures like heldout")
        < page.index(f"<li>it catches {near}, below")
        < page.index("<dl>")
    )
    own = scorer.calibrated.catches[0]
    assert f"<dd>called OOD: {own}, {near}, {far}</dd>" in page


def test_the_control_is_compared(folder, tmp_path, capsys):
    arrays = {"digits.artefact": np.arange(200.0), "heldout.artefact": np.full(354, 500.0)}
    about = {"id": "digits", "sets": {"digits": {}, "heldout": {}}}
    save_tensors(tmp_path / "audit.safetensors", arrays, kind="audit", metadata=about)
    assert deployed(folder, "knn", audit=tmp_path / "audit.safetensors") == 0
    assert "knows only how rough a picture is, catches 100% of heldout (it: " in capsys.readouterr().err
    assert load_deployed(folder / "d.safetensors").calibrated.catches[1].control == 1.0


def test_what_cannot_be_measured_is_said_everywhere(folder, tmp_path, capsys):
    """A detector that queries the network, with nothing known of the other sets."""
    values = {
        "model": folder / "digital-0.safetensors",
        "detector": "odin",
        "set": ["odin.epsilon=0.0", "odin.temperature=1000.0"],
    }
    places = {"params": tmp_path / "none.yaml", "sets_dir": folder, "results": tmp_path}
    status = call(deploy.main, **values, **places, alpha=0.05, out=folder / "odin.safetensors")
    said = capsys.readouterr()
    assert status == 0 and said.out.endswith("what it catches was not measured.\n")
    assert "what it catches was not measured: " in said.err and "none.yaml: no such file" in said.err
    assert scored(folder, tmp_path, detector="odin.safetensors")[0] == 0
    said = capsys.readouterr()
    assert said.out.endswith("what it catches was not measured.\n") and "none.yaml" in said.err
    params = {**places, "params": folder / "params.yaml"}
    assert call(deploy.main, **values, **params, alpha=0.05, out=folder / "odin.safetensors") == 0
    assert [one.name for one in load_deployed(folder / "odin.safetensors").calibrated.catches] == [
        "digits", "heldout", "noise",
    ]  # fmt: skip


def test_scores_that_are_not_finite_are_refused(folder, monkeypatch, capsys, tmp_path):
    assert deployed(folder, "knn") == 0
    scorer = load_deployed(folder / "d.safetensors")
    images = load_tensors(folder / "noise.safetensors")[0]["test.images"]
    for value in (np.nan, np.inf, -np.inf):
        monkeypatch.setattr(
            type(scorer.calibrated.detector), "score", lambda self, o, v=value: np.full(len(o), v)
        )
        with pytest.raises(ValueError, match="50 of 50 knn scores are "):
            scorer.decide(images)


@pytest.mark.parametrize(
    ("option", "place", "says"),
    [
        ("out", "file/s.csv", "file: Not a directory"),
        ("out", "", "is a folder; add the name of the file to write"),
        ("out", "/proc/none/s.csv", "cannot be written (/proc: "),
        ("html", "file/a/b.html", "file: Not a directory"),
        ("html", "x" * 250, "has a name that is too long"),
        ("html", "s.csv", "--out and --html name one file"),
        ("out", "d.safetensors", "--detector and --out name one file"),
        ("out", "pipe", "is there and no file"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_any_picture_is_read(
    folder,
    tmp_path,
    option,
    place,
    says,
    monkeypatch,
    capsys,
):
    assert deployed(folder, "knn") == 0
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(score, "decide_pictures", None)
    detector = tmp_path / "d.safetensors"
    detector.write_bytes((folder / "d.safetensors").read_bytes())
    options = {"out": tmp_path / "s.csv", option: tmp_path / place if place else f"{tmp_path}/"}
    capsys.readouterr()
    assert call(score.main, detector=detector, images=folder / "pictures", **options) == 1
    found = capsys.readouterr().err
    assert says in found and "Traceback" not in found
    assert {path.name for path in tmp_path.iterdir()} == {"file", "pipe", "d.safetensors"}


def test_deploy_refuses_a_place_before_it_fits(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(deploy, "fit_deployed", None)
    (tmp_path / "file").write_text("")
    assert deployed(folder, "knn", out=tmp_path / "file" / "d.safetensors") == 1
    assert f"({tmp_path / 'file'}: Not a directory)" in capsys.readouterr().err
    assert deployed(folder, "knn", out="digital-0.safetensors") == 1
    assert "--model and --out name one file" in capsys.readouterr().err
    for alpha in ("nan", "inf", "0", "1", "-0.05"):
        assert deployed(folder, "knn", alpha=alpha) == 1
        assert "alpha must be above 0 and below 1, found" in capsys.readouterr().err
