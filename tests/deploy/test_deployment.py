"""One file from model and detector, and decisions about folders of pictures, on real digits."""

import base64
import csv
import io
import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.stats import false_discovery_control

from sslood.commands import deploy, score
from sslood.core.errors import InputError
from sslood.core.files import load_tensors, save_json, save_tensors
from sslood.deploy.measured import parse_given
from sslood.deploy.scorer import load_deployed
from sslood.deploy.thresholds import p_values
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import save_model
from sslood.nets.networks.heads import build_head
from sslood.ood.kit.outputs import read_embeddings
from stages import embed
from tests.kit.small import call, model_card, write_params, write_sets

GIVEN = {  # settings of detectors that no stage measured
    "knn": ["knn.k=5"],
    "vim": ["vim.share=0.5"],
    "ssd": [
        "ssd.clusters=1", "ssd.tied=false", "ssd.class_conditional=false", "ssd.layer=features",
        "ssd.covariance=ridge", "ssd.ridge=1e-3",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_deployment(tmp_path_factory.mktemp("deployment"))


def write_deployment(folder):
    """Write a classifier, its embeddings, params, and the test digits and held-out digits as PNG files."""
    write_sets(folder)
    with seeded(0):
        modules = {"backbone": build_backbone("resnet-8-4", channels=1), "head": build_head(16, 8)}
    metadata = model_card(name="digital", head_classes=list(range(8)))
    save_model(folder / "digital-0.safetensors", modules, metadata)
    params = write_params(folder / "params.yaml")
    status = call(
        embed.main, model=folder / "digital-0.safetensors", sets=f"{params}:sets", sets_dir=folder,
        id="digits", recipe=f"{params}:augment.shots", batch_size=64,
        precision="float32", shots=2, copies=2, seed=0, out=folder / "e" / "digital.safetensors",
    )  # fmt: skip
    assert status == 0
    for name in ("digits", "heldout"):
        images = load_tensors(folder / f"{name}.safetensors")[0]["test.images"]
        (folder / "pictures" / name).mkdir(parents=True)
        for place, image in enumerate(images[:60]):
            Image.fromarray(image[0]).save(folder / "pictures" / name / f"{place:03}.png")
    return folder


def deployed(folder, name, out="d.safetensors", **changes):
    values = {
        "model": folder / "digital-0.safetensors",
        "embeddings": folder / "e" / "digital.safetensors",
        "detector": name,
        "alpha": 0.05,
        "params": folder / "params.yaml",
        "results": folder / "results",
        "set": GIVEN.get(name, []),
        "out": folder / out,
    }
    return call(deploy.main, **(values | changes))


def scored(folder, tmp_path, detector="d.safetensors", images=None, **changes):
    images = images or folder / "pictures"
    status = call(score.main, detector=folder / detector, images=images, out=tmp_path / "s.csv", **changes)
    if status:
        return status, None
    with open(tmp_path / "s.csv", newline="") as file:
        return status, list(csv.DictReader(file))


def test_a_model_that_saw_validation_is_calibrated_on_test(folder, tmp_path, capsys):
    with seeded(0):
        modules = {"backbone": build_backbone("resnet-8-4", channels=1), "head": build_head(16, 8)}
    metadata = model_card(name="seen", head_classes=list(range(8)), saw_validation=True)
    save_model(tmp_path / "seen-0.safetensors", modules, metadata)
    status = call(
        embed.main, model=tmp_path / "seen-0.safetensors", sets=f"{folder}/params.yaml:sets", sets_dir=folder,
        id="digits", recipe=f"{folder}/params.yaml:augment.shots", batch_size=64,
        precision="float32", shots=2, copies=2, seed=0, out=tmp_path / "e" / "seen.safetensors",
    )  # fmt: skip
    assert status == 0
    places = {"model": tmp_path / "seen-0.safetensors", "embeddings": tmp_path / "e" / "seen.safetensors"}
    assert deployed(folder, "knn", out="seen.safetensors", **places) == 0
    assert "from 200 calibration images" in capsys.readouterr().out  # 100 are in validation


@pytest.mark.parametrize("name", ["knn", "ssd", "vim", "temperature_scaling", "msp"])
def test_a_folder_of_pictures_has_the_scores_of_the_embeddings(folder, tmp_path, name, capsys):
    assert deployed(folder, name) == 0
    count = 50 if name == "temperature_scaling" else 100  # the other half was fitted on
    assert f"from {count} calibration images" in capsys.readouterr().out
    status, rows = scored(folder, tmp_path, batch_size=7)
    assert status == 0 and len(rows) == 120
    scorer = load_deployed(folder / "d.safetensors")
    outputs = read_embeddings(folder / "e", "digital", 0)
    expected = np.concatenate(
        [scorer.calibrated.detector.score(outputs.outputs(s, "test"))[:60] for s in ("digits", "heldout")]
    )
    found = np.array([float(row["score"]) for row in rows])
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)
    assert rows[0]["path"] == "digits/000.png" and rows[-1]["path"] == "heldout/059.png"
    p = np.array([float(row["p_value"]) for row in rows])
    np.testing.assert_array_equal(p, p_values(scorer.calibrated.calibration, found))
    np.testing.assert_array_equal([row["is_ood"] == "true" for row in rows], p <= 0.05)
    logits = outputs.outputs("digits", "test").logits[:60]
    assert [row["predicted_class"] for row in rows[:60]] == [str(c) for c in logits.argmax(1)]


def test_scores_of_pictures_as_parquet_are_those_of_the_csv(folder, tmp_path):
    assert deployed(folder, "knn") == 0
    listed = tmp_path / "list.csv"
    paths = sorted((folder / "pictures" / "digits").iterdir())[:20]
    listed.write_text("path,site\n" + "".join(f"{path},=s{at}\n" for at, path in enumerate(paths)))
    _, rows = scored(folder, tmp_path, images=listed)
    places = {"detector": folder / "d.safetensors", "images": listed}
    assert call(score.main, **places, out=tmp_path / "s.parquet") == 0
    found = pq.read_table(tmp_path / "s.parquet").to_pylist()
    assert [list(row) for row in found] == [list(row) for row in rows]
    for name, kind in {"path": str, "score": float, "p_value": float}.items():
        assert [row[name] for row in found] == [kind(row[name]) for row in rows]
    assert [row["is_ood"] for row in found] == [row["is_ood"] == "true" for row in rows]
    assert [row["site"] for row in found] == [f"=s{at}" for at in range(20)]


@pytest.mark.parametrize("name", ["knn", "msp"])
def test_features_of_the_network_are_decided_about_as_its_pictures(folder, name):
    """Logits that are not given are those of the file's own head."""
    assert deployed(folder, name) == 0
    scorer = load_deployed(folder / "d.safetensors")
    ours = scorer.decide_vectors(
        read_embeddings(folder / "e", "digital", 0).outputs("heldout", "test").features
    )
    theirs = scorer.decide(load_tensors(folder / "heldout.safetensors")[0]["test.images"])
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)
    assert ours.predicted == theirs.predicted != [""] * len(ours.scores)


def test_fiftyones_importer_finds_every_picture_of_the_csv(folder, tmp_path):
    """As its CSVDatasetImporter reads: the media column names a file below data_path."""
    assert deployed(folder, "knn") == 0 and scored(folder, tmp_path)[0] == 0
    top = folder / "pictures"
    there = {path.relative_to(top).as_posix(): path for path in top.rglob("*.png")}
    with open(tmp_path / "s.csv") as file:  # without newline="", as there
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows} == there.keys()
    assert all(0 < float(row["p_value"]) <= 1 and row["is_ood"] in ("true", "false") for row in rows)


def results(folder, entries, models=("digital",), detectors=("knn", "vim"), seed=0):
    """Write results of the stage posthoc; return their folder."""
    measured = {model: {detector: {} for detector in detectors} for model in models}
    save_json(folder / f"results/posthoc/{seed}.json", {"models": measured, "chosen": entries})
    return folder / "results"


def test_it_takes_what_the_stage_measured(folder, tmp_path, capsys):
    source = "highest mean AUROC of digits.validation against corruptions.validation"
    found = results(tmp_path, {"digital.knn.k": {"value": 2, "source": source, "candidates": []}})
    assert deployed(folder, "knn", results=found, set=[]) == 0
    assert load_deployed(folder / "d.safetensors").calibrated.detector.settings.k == 2
    assert f"knn: k = 2 (stage posthoc, {source}); fitted on digits.train (600)." in capsys.readouterr().out
    found = results(tmp_path, {"knn.k": {"value": 3, "source": "params"}})
    assert deployed(folder, "knn", results=found, set=[]) == 0
    assert "knn: k = 3 (stage posthoc, from params)" in capsys.readouterr().out
    assert deployed(folder, "knn", results=found, set="knn.k=4") == 0
    assert "knn: k = 4 (given)" in capsys.readouterr().out
    assert load_deployed(folder / "d.safetensors").calibrated.detector.settings.k == 4


def test_what_was_not_measured_says_what_to_run(folder, tmp_path, capsys):
    def refused(name="knn", **changes):
        assert deployed(folder, name, out="none.safetensors", **{"set": [], "results": found} | changes) == 1
        assert not (folder / "none.safetensors").exists()
        return capsys.readouterr().err

    found = tmp_path / "results"
    message = refused()
    assert "results/posthoc/0.json: no such file, so knn of model 'digital' was not measured; run" in message
    assert "run `dvc repro posthoc@0`" in message and "with --choose" in message
    assert "results/ssd/0.json: no such file" in refused("ssd")
    assert "run `dvc repro network@digital-0`" in refused("gram", sets_dir=folder)
    found = results(tmp_path, {"knn.k": {"value": 3, "source": "params"}}, models=["other"])
    assert "0.json: no results of knn for model 'digital'; run `dvc repro posthoc@0`" in refused()
    found = results(tmp_path, {"knn.k": {"value": 3, "source": "params"}})
    assert "0.json: lacks the setting share of vim for model 'digital'" in refused("vim")
    for given, says in [
        ("knn.kk=3", "knn has no setting 'kk' (did you mean 'k'?); known: k"),
        ("knn.k", "write DETECTOR.SETTING=VALUE"),
        ("k=3", "write DETECTOR.SETTING=VALUE"),
        ("vim.share=0.5", "unknown detector in --set: 'vim'; known: knn"),
        ("knn.k=many", "--set knn.k: must be of type int or auto, found 'many'"),
        ("knn.k=0", "--set knn.k must be at least 1, found 0"),
        ("knn.k=1:30", "--set knn.k: must be of type int or auto, found '1:30'"),
        (
            "knn.k=[",
            "--set knn.k: '[' is no value (did not find expected node content); write such",
        ),
        ("knn.k=!!python/name:os.system", "is no value (could not determine a constructor for the tag"),
        ("knn.k=auto", "choosing a setting needs --choose"),
    ]:
        assert says in refused(set=given)


def test_one_setting_twice_is_refused():
    assert parse_given(["knn.k=3"], ["knn"]) == {"knn": {"k": 3}}
    with pytest.raises(InputError, match="--set knn.k: given twice; omit one"):
        parse_given(["knn.k=3", "knn.k=4"], ["knn"])


def test_the_option_of_before_says_what_to_do_now(folder, capsys):
    assert deployed(folder, "knn", chosen="x.json") == 2
    said = capsys.readouterr().err
    assert said.startswith("Error: --chosen is gone: what the stage measured is the default now")
    assert "params.yaml" not in said


def test_three_lines_of_python(folder):
    assert deployed(folder, "knn") == 0
    scorer = load_deployed(folder / "d.safetensors")
    images = load_tensors(folder / "noise.safetensors")[0]["test.images"]
    decisions = scorer.decide(images)
    assert decisions.is_ood.mean() > 0.3, "an untrained network sees that noise is unlike digits"
    own = scorer.decide(load_tensors(folder / "digits.safetensors")[0]["test.images"])
    assert own.is_ood.mean() < 0.15, "alpha 0.05, from 100 calibration images"
    with pytest.raises(InputError, match=r"uint8 of shape \(N, 1, 8, 8\), found float32 \(2, 3, 8, 8\)"):
        scorer.decide(np.zeros((2, 3, 8, 8), np.float32))


def test_two_runs_give_the_same_bytes(folder, tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        assert deployed(folder, "ssd", out=name) == 0
    assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()


def test_pictures_of_any_kind_pass_the_chain(folder, tmp_path):
    assert deployed(folder, "knn") == 0
    colour = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(colour).save(tmp_path / "in" / "photo.jpg")
    status, rows = scored(folder, tmp_path, images=tmp_path / "in")
    assert status == 0 and rows[0]["path"] == "photo.jpg"


def test_gallery_shows_the_most_ood_first(folder, tmp_path):
    assert deployed(folder, "knn") == 0
    status, rows = scored(folder, tmp_path, html=tmp_path / "page.html", html_count=10)
    assert status == 0
    rows.sort(key=lambda row: -float(row["score"]))
    page = (tmp_path / "page.html").read_text()
    names = re.findall('<img alt="([^"]+)"', page)
    assert len(names) == 10 and names[0] == rows[0]["path"] and names[-1] == rows[-1]["path"]
    ranks = [int(rank) for rank in re.findall(r"<figcaption>#(\d+) ", page)]
    assert ranks == sorted(ranks) and (ranks[0], ranks[-1]) == (1, 120)
    kinds = re.findall('<figure class="(ood|id)"', page)
    assert kinds == ["ood" if rows[rank - 1]["is_ood"] == "true" else "id" for rank in ranks]
    first = re.search('base64,([^"]+)"', page)[1]
    with Image.open(io.BytesIO(base64.b64decode(first))) as shown:
        with Image.open(folder / "pictures" / names[0]) as original:
            np.testing.assert_array_equal(np.asarray(shown), np.asarray(original))
    assert "://" not in page, "nothing is loaded from elsewhere"
    heights = [float(height) for height in re.findall(r'height="([\d.]+)" fill=', page)]
    p = np.array([float(row["p_value"]) for row in rows])
    red = np.array([row["is_ood"] == "true" for row in rows])
    bars = np.stack([np.histogram(p[part], 20, (0, 1))[0] for part in (red, ~red)], 1).ravel()
    np.testing.assert_allclose(np.array(heights) / sum(heights), bars / bars.sum(), atol=1e-3)
    assert page.index("Out-of-distribution") < page.index("In-distribution")
    assert "<dd>knn</dd>" in page and "at most 5.0% of ID pictures" in page and "knn.k = 5" in page


def test_gallery_escapes_names(folder, tmp_path):
    images = tmp_path / "in & out"
    images.mkdir()
    Image.new("RGB", (200, 100)).save(images / "<b>&.png")
    assert deployed(folder, "knn") == 0
    assert scored(folder, tmp_path, images=images, html=tmp_path / "page.html")[0] == 0
    page = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;&amp;.png" in page and "<b>" not in page and "in &amp; out" in page


def test_bad_pictures_are_named(folder, tmp_path, capsys):
    assert deployed(folder, "knn") == 0
    images = tmp_path / "in"
    images.mkdir()
    assert scored(folder, tmp_path, images=images)[0] == 1
    assert "no image in it" in capsys.readouterr().err
    (images / "broken.png").write_bytes(b"not a picture")
    assert scored(folder, tmp_path, images=images)[0] == 1
    assert "broken.png: cannot be read" in capsys.readouterr().err
    assert scored(folder, tmp_path, images=images, skip_unreadable=None)[0] == 1
    assert "none of the 1 pictures can be read; look at" in capsys.readouterr().err
    for nothing in ("absent", "absent.png"):
        assert scored(folder, tmp_path, images=images / nothing)[0] == 1
        assert (
            f"no such folder, list or picture: '{images / nothing}' does not exist" in capsys.readouterr().err
        )
    assert not (tmp_path / "s.csv").exists()


def test_unreadable_pictures_can_be_left_out_and_are_named(folder, tmp_path, capsys):
    assert deployed(folder, "knn") == 0
    _, all_rows = scored(folder, tmp_path, images=folder / "pictures" / "heldout")
    shutil.copytree(folder / "pictures" / "heldout", tmp_path / "in")
    for place in (0, 7, 59):
        (tmp_path / "in" / f"{place:03}.png").write_bytes(b"not a picture")
    page, images = tmp_path / "page.html", tmp_path / "in"
    status, rows = scored(folder, tmp_path, images=images, skip_unreadable=None, batch_size=1, html=page)
    assert status == 0 and len(rows) == 57
    expected = [row for place, row in enumerate(all_rows) if place not in (0, 7, 59)]
    for row, alone in zip(rows, expected, strict=True):
        assert row["path"] == alone["path"]
        assert float(row["score"]) == pytest.approx(float(alone["score"]), rel=1e-3, abs=1e-5)
    found = capsys.readouterr()
    assert found.err.count("left out, cannot be read (") == 3 and "007.png" in found.err
    assert "of 57 images" in found.out and "of 57 pictures" in page.read_text()


def test_one_picture(folder, tmp_path):
    assert deployed(folder, "knn") == 0
    _, all_rows = scored(folder, tmp_path)
    page = tmp_path / "page.html"
    status, rows = scored(folder, tmp_path, images=folder / "pictures" / "digits" / "007.png", html=page)
    assert status == 0 and [row["path"] for row in rows] == ["007.png"]
    assert float(rows[0]["score"]) == pytest.approx(float(all_rows[7]["score"]), rel=1e-3, abs=1e-5)
    assert "#1 <strong>" in page.read_text()


def test_wrong_files_are_named(folder, tmp_path, capsys):
    assert deployed(folder, "knn", alpha=0.001) == 1
    assert "needs at least 999 calibration images, there are 100" in capsys.readouterr().err
    assert deployed(folder, "knnn") == 1 and "unknown detector 'knnn'" in capsys.readouterr().err
    assert scored(folder, tmp_path, detector="digital-0.safetensors")[0] == 1
    names = "; name a file of `sslood fit` or `sslood deploy`\n"
    assert f"expected a file of kind 'detector', found 'model'{names}" in capsys.readouterr().err
    assert scored(folder, tmp_path, detector="none.safetensors")[0] == 1
    assert f"none.safetensors: no such file{names}" in capsys.readouterr().err
    assert deployed(folder, "knn") == 0
    whole = (folder / "d.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-100])
    assert scored(folder, tmp_path, detector="cut.safetensors")[0] == 1
    said = capsys.readouterr().err
    assert "not a complete safetensors file" in said and said.endswith(names) and "delete" not in said
    arrays, metadata = load_tensors(folder / "d.safetensors")
    save_tensors(folder / "new.safetensors", arrays, kind="detector", metadata=metadata | {"format": 99})
    assert scored(folder, tmp_path, detector="new.safetensors")[0] == 1
    assert capsys.readouterr().err.endswith("newer version (format 99); update this one\n")


def test_embeddings_of_another_training_are_refused(folder, tmp_path, capsys):
    arrays, metadata = load_tensors(folder / "digital-0.safetensors")
    about = {key: value for key, value in metadata.items() if key not in ("kind", "format")}
    other = tmp_path / "digital-0.safetensors"
    save_tensors(other, arrays, kind="model", metadata=about | {"settings": {"epochs": 3}})
    assert deployed(folder, "knn", model=other) == 1
    assert "not the embeddings of model 'digital' of seed 0" in capsys.readouterr().err
    save_tensors(other, arrays | {"head.weight": arrays["head.weight"] + 1}, kind="model", metadata=about)
    assert deployed(folder, "knn", model=other) == 1
    assert "trained again" in capsys.readouterr().err


def test_the_file_says_what_it_is(folder):
    assert deployed(folder, "ssd") == 0
    metadata = load_tensors(folder / "d.safetensors")[1]
    assert metadata["detectors"][0]["settings"]["ridge"] == 1e-3 and metadata["combination"] is None
    assert metadata["threshold"]["alpha"] == 0.05 and metadata["threshold"]["images"] == 100
    assert metadata["detectors"][0]["sources"]["ridge"] == "given"
    assert metadata["detectors"][0]["fitted_on"] == "digits.train (600)"
    assert metadata["calibrated_on"] == "digits.validation"
    json.dumps(metadata, allow_nan=False)


def test_false_discoveries_are_controlled_over_the_whole_folder(folder, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("digits", "noise"):
        for place, image in enumerate(load_tensors(folder / f"{name}.safetensors")[0]["test.images"][:40]):
            Image.fromarray(image[0]).save(pictures / f"{name}{place:02}.png")
    assert deployed(folder, "ssd") == 0
    alone = scored(folder, tmp_path, images=pictures)[1]
    status, rows = scored(folder, tmp_path, images=pictures, fdr=0.2, html=tmp_path / "page.html")
    assert status == 0 and "at a false-discovery rate of 0.2" in capsys.readouterr().out
    p = np.array([float(row["p_value"]) for row in rows])
    called = np.array([row["is_ood"] == "true" for row in rows])
    np.testing.assert_array_equal(called, false_discovery_control(p) <= 0.2)
    assert called[40:].mean() > 0.5 and called[:40].mean() < 0.2
    for key in ("path", "score", "p_value", "predicted_class"):
        assert [row[key] for row in rows] == [row[key] for row in alone]
    assert f"{called.sum()} of 80 pictures are OOD" in (tmp_path / "page.html").read_text()


def test_a_rate_that_the_calibration_images_do_not_allow(folder, tmp_path, capsys):
    assert deployed(folder, "knn") == 0
    assert scored(folder, tmp_path, fdr=0.001)[0] == 1
    assert "0.001 needs at least 999 calibration images, there are 100" in capsys.readouterr().err
    assert scored(folder, tmp_path, fdr=1.5)[0] == 1
    assert "--fdr must be above 0 and below 1, found 1.5" in capsys.readouterr().err
    assert not (tmp_path / "s.csv").exists()


def test_the_rate_can_be_changed_without_the_detector(folder, tmp_path, capsys):
    """As another file deployed at that rate decides; what it catches at that rate is not known."""
    for name, alpha in [("d.safetensors", 0.05), ("e.safetensors", 0.2)]:
        assert deployed(folder, "knn", out=name, alpha=alpha) == 0
    expected = scored(folder, tmp_path, detector="e.safetensors")[1]
    capsys.readouterr()
    page = tmp_path / "page.html"
    status, rows = scored(folder, tmp_path, alpha=0.2, html=page)
    assert status == 0 and rows == expected
    found = capsys.readouterr()
    assert "a false-alarm rate of 0.2; what it catches was not measured" in found.out
    assert "its file says that for alpha 0.05 only, not for 0.2" in found.err
    assert "at most 20.0% of ID pictures" in page.read_text()
    scorer = load_deployed(folder / "d.safetensors")
    assert scorer.calibrated.at(0.05) is scorer.calibrated
    assert scored(folder, tmp_path, alpha=0.001)[0] == 1
    assert "0.001 needs at least 999 calibration images, there are 100" in capsys.readouterr().err
    assert scored(folder, tmp_path, alpha=1.5)[0] == 1
    assert "alpha must be above 0 and below 1, found 1.5" in capsys.readouterr().err
    assert scored(folder, tmp_path, alpha=0.2, fdr=0.2)[0] == 1
    assert "two rules for what is OOD; give one of them" in capsys.readouterr().err
