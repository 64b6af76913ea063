"""The command `drift`: batches of scores and of pictures, the stream that they make, and what is refused."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from sslood.commands import drift, score
from sslood.core.files import load_tensors
from sslood.deploy.drift.batches import flags_p_value
from sslood.deploy.drift.scored import Scored
from sslood.deploy.drift.watch import Watch, groups_of
from sslood.deploy.scorer import load_deployed
from tests.kit.detector import write_detector
from tests.kit.small import call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A detector for digits, and folders of pictures: digits of ID test, and noise."""
    folder = tmp_path_factory.mktemp("drift")
    write_detector(folder)
    digits = load_tensors(folder / "digits.safetensors")[0]["test.images"]
    noise = load_tensors(folder / "noise.safetensors")[0]["test.images"]
    for name, images in (
        ("one", digits[:60]),
        ("two", digits[60:120]),
        ("noise", noise),
        ("id", digits[120:]),
    ):
        (folder / name).mkdir()
        for place, image in enumerate(images):
            Image.fromarray(image[0]).save(folder / name / f"{name}{place:03}.png")
    return folder


def drifted(folder, **values):
    return call(drift.main, detector=folder / "d.safetensors", **values)


def test_a_stream_of_scored_tables_and_pictures(folder, tmp_path, capsys):
    detector, state = folder / "d.safetensors", tmp_path / "stream.json"
    assert call(score.main, detector=detector, images=folder / "one", out=tmp_path / "one.csv") == 0
    capsys.readouterr()
    assert drifted(folder, scores=tmp_path / "one.csv", state=state, delta=0.05, fail=None) == 0
    said = capsys.readouterr().out
    assert re.search(r"^one.csv: \d of 60 pictures are called OOD \(\d.\d%; of ID 5.0% on average\)", said)
    assert "60 pictures in 1 batch; no alarm: evidence" in said and "where 20 raise it" in said
    assert drifted(folder, images=folder / "two", state=state, name="second") == 0
    assert "second: " in (said := capsys.readouterr().out) and "120 pictures in 2 batches; no alarm" in said
    assert drifted(folder, images=folder / "noise", state=state, fail=None) == drift.ALARM
    found = capsys.readouterr()
    assert "170 pictures in 3 batches; ALARM since picture" in found.out and not found.err
    assert "of batch 3 (noise), in shuffled order: so many pictures are as OOD as few" in found.out
    assert drifted(folder, state=state) == 0
    assert "170 pictures in 3 batches; ALARM since" in capsys.readouterr().out
    records = Watch.open(detector, state).state.records
    assert [record.images for record in records] == [60, 60, 50] and records[2].flags_p < 1e-6


def test_pictures_give_what_their_scores_give(folder, tmp_path):
    assert (
        call(score.main, detector=folder / "d.safetensors", images=folder / "one", out=tmp_path / "s.csv")
        == 0
    )
    for way, batch in (("a.json", {"scores": tmp_path / "s.csv"}), ("b.json", {"images": folder / "one"})):
        assert drifted(folder, **batch, state=tmp_path / way, name="one") == 0
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert one == two


@pytest.mark.parametrize("listed", [False, True])
def test_a_picture_has_one_name_in_tables_and_among_pictures(folder, tmp_path, capsys, listed):
    """Odd names, and boxes of a list with IDs: counted once, whatever they are given as."""
    images, names = tmp_path / "in", ("=1.png", "2%41.png", "n\xff.png")
    images.mkdir()
    for place, name in enumerate(names):
        Image.fromarray(np.full((20, 20), 90 * place, np.uint8)).save(images / name)
    if listed:
        rows = [f"in/{name},{x},0,{x + 9},9,+{x}" for name in names for x in (0, 9)]
        images = tmp_path / "list.csv"
        images.write_text("\n".join(["path,x0,y0,x1,y1,id", *rows]), encoding="utf-8")
    detector, batches = folder / "d.safetensors", {"images": images}
    for out in ("s.csv", "s.parquet"):
        assert call(score.main, detector=detector, images=images, out=tmp_path / out) == 0
        batches[out] = tmp_path / out
    text = (tmp_path / "s.csv").read_text(encoding="utf-8")
    (tmp_path / "sheet.csv").write_text(text, encoding="utf-8-sig")  # as a spreadsheet saves it
    batches["sheet.csv"] = tmp_path / "sheet.csv"
    for first in batches:
        for second in batches:
            state = tmp_path / f"{first}-{second}.json"
            for way, status in ((first, 0), (second, 1)):
                option = "images" if way == "images" else "scores"
                assert drifted(folder, **{option: batches[way]}, state=state, name=way) == status
    assert capsys.readouterr().err.count("its pictures were counted before, as batch 1") == 16


def test_a_batch_alone_is_called_as_its_folder(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder / "one")
    assert drifted(folder, images=".") == 0
    assert capsys.readouterr().out.startswith("one: ")


def test_a_batch_alone_with_vectors_of_pictures_and_of_files(folder, tmp_path, capsys):
    assert drifted(folder, images=folder / "noise", reference=folder / "id") == 0
    found = capsys.readouterr().out
    assert "Such vectors: p = 0.002 (MMD^2" in found and "50 against 80 of the reference" in found
    assert "Told apart by a classifier: p = 0.002 (AUROC 0.995 on vectors that it did not see" in found
    scorer = load_deployed(folder / "d.safetensors")
    images = load_tensors(folder / "noise.safetensors")[0]["test.images"]
    batch = Scored([*map(str, range(50))], scorer.decide(images).scores)
    assert f"So many flags: p = {flags_p_value(groups_of(batch, scorer.calibrated)):.2g} (one-sided" in found
    outputs = load_tensors(folder / "e" / "digital.safetensors")[0]
    for name in ("digits.test", "noise.test"):
        np.save(tmp_path / f"{name}.npy", outputs[f"{name}.features"])
    files = {"vectors": tmp_path / "noise.test.npy", "reference": tmp_path / "digits.test.npy"}
    assert drifted(folder, images=folder / "noise", **files) == 0
    assert "50 against 200 of the reference" in capsys.readouterr().out


def test_what_does_not_go_together_is_refused(folder, tmp_path, capsys):
    for says, values in {
        "there is no batch: give --scores or --images": {"state": tmp_path / "none.json"},
        "give one of them": {"scores": tmp_path / "s.csv", "images": folder / "one"},
        "give --reference too": {"images": folder / "one", "vectors": tmp_path / "v.npy"},
        "give --images or --vectors": {"scores": tmp_path / "s.csv", "reference": folder / "id"},
        "s.csv: no such file": {"scores": tmp_path / "s.csv"},
        "--fail is of a stream; give its --state": {"scores": tmp_path / "s.csv", "fail": None},
        "--ordered is of a stream; give its --state": {"scores": tmp_path / "s.csv", "ordered": None},
        "--delta is of a stream; give its --state": {"scores": tmp_path / "s.csv", "delta": 0.1},
        "--delta must be above 0": {"images": folder / "one", "state": tmp_path / "s.json", "delta": 2},
    }.items():
        assert drifted(folder, **values) == 1
        assert says in capsys.readouterr().err
    assert not (tmp_path / "s.json").exists()


def test_a_table_of_bulk_may_have_pictures_that_could_not_be_read(folder, tmp_path, capsys):
    pyarrow = pytest.importorskip("pyarrow")
    detector, out = folder / "d.safetensors", tmp_path / "s.parquet"
    assert call(score.main, detector=detector, images=folder / "one", out=out) == 0
    rows = pyarrow.parquet.read_table(out).to_pylist()
    rows = [row | {"reason": None} for row in rows]
    unread = dict.fromkeys(rows[0]) | {"path": "bad.png", "reason": "it is empty"}
    (tmp_path / "out").mkdir()
    table = pyarrow.Table.from_pylist([*rows[:12], unread, *rows[12:]])
    pyarrow.parquet.write_table(table, tmp_path / "out" / "part-000000.parquet")
    capsys.readouterr()
    assert drifted(folder, scores=tmp_path / "out") == 0
    found = capsys.readouterr()
    assert f"{tmp_path}/out: 1 picture that could not be read is left out" in found.err
    assert re.search(r"^out: \d of 60 pictures are called OOD", found.out)


def test_vectors_alone_are_no_batch_of_a_stream(folder, tmp_path, capsys):
    state = tmp_path / "s.json"
    assert drifted(folder, images=folder / "one", state=state) == 0
    for name in ("v.npy", "r.npy"):
        np.save(tmp_path / name, np.zeros((3, 16), np.float32))
    assert drifted(folder, vectors=tmp_path / "v.npy", reference=tmp_path / "r.npy", state=state) == 1
    assert "--vectors needs --scores or --images as well" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["images", "vectors", "reference"])
def test_what_is_read_is_not_overwritten(folder, tmp_path, capsys, option):
    (tmp_path / "list.csv").write_text("path\na.png\n")
    given = {"images": folder / "one", "reference": folder / "id", option: tmp_path / "list.csv"}
    assert drifted(folder, **given, state=tmp_path / "list.csv") == 1
    assert f"--{option} and --state name one file" in capsys.readouterr().err
    assert (tmp_path / "list.csv").read_text() == "path\na.png\n"


def test_a_broken_picture_is_named_and_may_be_left_out(folder, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.png").write_bytes(b"not a picture")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "in" / "good.png")
    state = tmp_path / "s.json"
    assert drifted(folder, images=tmp_path / "in", state=state) == 1
    assert "broken.png: cannot be read" in capsys.readouterr().err and not state.exists()
    assert drifted(folder, images=tmp_path / "in", state=state, skip_unreadable=None) == 0
    found = capsys.readouterr()
    assert "broken.png: left out" in found.err and "1 picture in 1 batch" in found.out
