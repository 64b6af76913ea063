"""A stream between calls: what is counted, once, by the same detector, and what its file says."""

import csv
import json
import multiprocessing
import re
from dataclasses import replace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from sslood.core import files
from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.core.names import cell
from sslood.deploy.by_class import ByClass
from sslood.deploy.drift import state as state_module
from sslood.deploy.drift import words
from sslood.deploy.drift.batches import Group, flags_p_value
from sslood.deploy.drift.betting import BETS, bet
from sslood.deploy.drift.online import Reference
from sslood.deploy.drift.scored import Scored, read_scores
from sslood.deploy.drift.state import KEPT, State, alone, hashes_of, load_state, save_state
from sslood.deploy.drift.watch import Watch, _ties, groups_of, judge_batch
from sslood.deploy.scorer import load_deployed
from tests.kit.detector import write_detector


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return write_detector(tmp_path_factory.mktemp("watch"))


@pytest.fixture(scope="module")
def calibrated(detector):
    return load_deployed(detector).calibrated


def like(calibrated, count, seed=0, shift=0.0, prefix="a"):
    """A batch of scores drawn from those of the calibration images, moved by `shift` standard deviations."""
    random = np.random.default_rng(seed)
    scores = random.choice(calibrated.calibration, count) + random.normal(0, 1e-6, count)
    return Scored(
        [f"{prefix}{place}" for place in range(count)], scores + shift * calibrated.calibration.std()
    )


def test_batches_of_a_stream_add_up_as_one_in_order(detector, calibrated, tmp_path):
    whole = like(calibrated, 90)
    one, two = (Watch.open(detector, tmp_path / name) for name in ("one.json", "two.json"))
    one.add(whole, "all", ordered=True)
    for part, ends in (("first", (0, 40)), ("second", (40, 90))):
        rows = slice(*ends)
        two = Watch.open(detector, tmp_path / "two.json")  # from the file, as a new process would
        two.add(Scored(whole.names[rows], whole.scores[rows]), part, ordered=True)
    for key in ("counts", "images", "log_stakes", "highest", "seen", "alarm"):
        assert getattr(one.state, key) == getattr(two.state, key), key
    assert [record.images for record in two.state.records] == [40, 50]


def test_the_evidence_is_that_of_the_martingale(detector, calibrated, tmp_path):
    batch = like(calibrated, 60, shift=0.5)
    watch = Watch.open(detector, tmp_path / "s.json", seed=3)
    record = watch.add(batch, "b", ordered=True)
    reference = Reference.of(calibrated.calibration, 3)
    p, _ = reference.p_values(reference.bins(batch.scores), _ties(3, 0, 60))
    logs = bet(np.full(len(BETS), -np.inf), p, 0)[1] / np.log(10)
    assert (record.evidence, record.highest) == (logs[-1], logs.max())
    assert watch.state.highest == logs.max() and watch.toward_ood()
    np.testing.assert_array_equal(_ties(3, 20, 40), _ties(3, 0, 60)[20:])


def test_an_alarm_is_raised_once_and_stays(detector, calibrated, tmp_path):
    watch = Watch.open(detector, tmp_path / "s.json", delta=0.02)
    watch.add(like(calibrated, 50, 1, prefix="a"), "calm")
    assert watch.state.raised is None and 0 <= watch.state.highest < np.log10(50)
    watch.add(like(calibrated, 60, 2, shift=6, prefix="b"), "changed")
    found = Watch.open(detector, tmp_path / "s.json").state.raised
    assert found.batch == 2 and 1 < found.image < 40 and not found.ordered
    watch.add(like(calibrated, 50, 3, prefix="c"), "calm again")
    assert watch.state.raised == found and watch.state.highest >= np.log10(50)


def test_a_folder_sorted_by_class_is_no_drift(detector, calibrated, tmp_path):
    """Its scores ascend, which is far from exchangeable; shuffled, they are as good as any."""
    batch = like(calibrated, 300, 4)
    order = np.argsort(batch.scores)
    names = [batch.names[place] for place in order]
    alarms = []
    for ordered in (True, False):
        watch = Watch.open(detector, tmp_path / f"{ordered}.json")
        watch.add(Scored(names, batch.scores[order]), "sorted", ordered=ordered)
        alarms.append(watch.state.raised is not None)
    assert alarms == [True, False]


def test_nothing_is_counted_twice(detector, calibrated, tmp_path):
    watch, path = Watch.open(detector, tmp_path / "s.json"), tmp_path / "s.json"
    batch = like(calibrated, 30)
    watch.add(batch, "monday.csv")
    before = path.read_bytes()
    again = Scored(batch.names[::-1], batch.scores[::-1])
    part = Scored(["new", batch.names[7]], batch.scores[6:8])
    twice = Scored(["x", "x"], batch.scores[[0, 0]])
    for wrong, says in (
        (again, r"tuesday: its pictures were counted before, as batch 1 \(monday.csv\)"),
        (part, "tuesday: 'a7' was counted before, in an earlier batch, with the same score"),
        (twice, "'x' was counted before, in this batch"),
    ):
        with pytest.raises(InputError, match=says):
            watch.add(wrong, "tuesday")
    assert path.read_bytes() == before
    watch.add(Scored(batch.names[:2], batch.scores[:2] * 1.001), "same names, other pictures")
    assert watch.state.images == 32


def test_pictures_scored_again_in_other_batches_are_not_counted_twice(detector, calibrated, tmp_path):
    """Float32 gives other last digits, so no score is the same; names may still be used again."""
    watch, random = Watch.open(detector, tmp_path / "s.json"), np.random.default_rng(0)
    mean, spread = calibrated.calibration.mean(), calibrated.calibration.std()
    names = [f"{place}.png" for place in range(200)]
    for _ in range(30):
        batch = Scored(names, random.normal(mean, spread, 200))
        watch.add(batch, "same names, other pictures")
    assert watch.state.images == 6000
    again = Scored(names, batch.scores + random.normal(0, 1e-6 * spread, 200))
    with pytest.raises(InputError, match=r"again: \d+ of its pictures, '\d+.png' among them, have the names"):
        watch.add(again, "again")
    watch.add(Scored(names[:3], again.scores[:3]), "too few to be sure")


def test_the_file_stays_small_and_knows_its_alarm(detector, calibrated, tmp_path, monkeypatch):
    monkeypatch.setattr(state_module, "RECORDS", 3)
    path = tmp_path / "s.json"
    for number in range(7):
        watch = Watch.open(detector, path, delta=0.02)
        batch = like(calibrated, 60, number, shift=6 * (number == 1), prefix=f"{number}.")
        watch.add(batch, f"batch {number}")
        if number == 2:  # as an earlier version wrote it
            save_state(path, replace(watch.state, alarm=watch.state.alarm | {"record": None}))
    state = Watch.open(detector, path).state
    assert [record.name for record in state.records] == ["batch 4", "batch 5", "batch 6"]
    assert (state.raised.batch, state.raised.record["name"], state.count) == (2, "batch 1", 7)
    assert "in 7 batches" in words.of_size(state)
    assert re.search(r"ALARM since picture \d+ of batch 2 \(batch 1\)", words.of_stream(watch))
    with pytest.raises(InputError, match=r"as batch 7 \(batch 6\)"):
        watch.add(batch, "again")


def test_a_file_that_is_too_large_is_not_to_be_deleted(tmp_path, monkeypatch):
    (tmp_path / "s.json").write_text(" " * 99)
    monkeypatch.setattr(files, "_MAX_JSON", 50)
    with pytest.raises(InputError, match=r"s.json: not valid JSON \(more than 50 bytes\); take a copy of it"):
        load_state(tmp_path / "s.json", "x")


def test_of_a_long_stream_a_sample_of_all_pictures_is_remembered(calibrated):
    state, random = State.begin("d", calibrated.calibration, delta=0.01, seed=0), np.random.default_rng(0)
    names = [f"{place}.png" for place in range(20_000)]
    hashes = hashes_of(names, random.random(20_000))
    for start in range(0, 20_000, 5000):
        kept = state.with_seen(hashes[start : start + 5000])
        state = State.begin("d", calibrated.calibration, delta=0.01, seed=0)
        state = type(state)(**{**vars(state), "seen": kept})
    found = state.counted_before(hashes)
    assert found.sum() == KEPT and 200 < found[3000:4500].sum() < 420, "a fifth of the pictures of any time"


def test_another_detector_delta_or_file_is_refused(detector, calibrated, tmp_path):
    path = tmp_path / "s.json"
    Watch.open(detector, path).add(like(calibrated, 10), "a")
    with pytest.raises(
        InputError, match="s.json: this stream was begun with another detector file .checksum"
    ):
        load_state(path, "0" * 64)
    with pytest.raises(
        InputError, match="begun with delta 0.01; a promise cannot be changed .* omit --delta"
    ):
        Watch.open(detector, path, delta=0.05)
    with pytest.raises(InputError, match="begun with seed 0"):
        Watch.open(detector, path, seed=1)
    Watch.open(detector, tmp_path / "long.json", seed=12345678).add(like(calibrated, 10), "a")
    with pytest.raises(InputError, match="begun with seed 12345678; a promise"):
        Watch.open(detector, tmp_path / "long.json", seed=1)
    for delta in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="--delta must be above 0 and below 1"):
            Watch.open(detector, tmp_path / "new.json", delta=delta)
    content = json.loads(path.read_text())
    for lie in ({"images": 9}, {"version": 2}, {"kind": "x"}, {"log_stakes": [1.0]}):
        (tmp_path / "lie.json").write_text(json.dumps(content | lie))
        with pytest.raises(InputError, match="lie.json: .*begin a new file|lie.json: .*will begin"):
            Watch.open(detector, tmp_path / "lie.json")
    (tmp_path / "cut.json").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cut.json: not valid JSON"):
        Watch.open(detector, tmp_path / "cut.json")


def test_a_second_process_neither_waits_nor_loses_a_batch(detector, calibrated, tmp_path):
    one, two = (Watch.open(detector, tmp_path / "s.json") for _ in range(2))
    with alone(tmp_path / "s.json"), pytest.raises(InputError, match="another run is adding a batch to it"):
        one.add(like(calibrated, 5), "a")
    one.add(like(calibrated, 5, 1, prefix="a"), "a")
    two.add(like(calibrated, 5, 2, prefix="b"), "b")  # opened before the first was added
    assert [record.name for record in load_state(tmp_path / "s.json", one.state.detector).records] == [
        "a",
        "b",
    ]


def _add_many(detector, path, scores, start):
    watch = Watch.open(detector, path)
    for place in range(start, len(scores)):
        watch.add(Scored([f"{place}"], scores[place : place + 1]), f"{place}", ordered=True)


def test_killed_between_batches_it_goes_on_as_if_nothing_happened(detector, calibrated, tmp_path):
    scores = like(calibrated, 4000, 5).scores
    spawned = multiprocessing.get_context("fork").Process(
        target=_add_many, args=(detector, tmp_path / "killed.json", scores, 0)
    )
    spawned.start()
    while not (tmp_path / "killed.json").exists():
        spawned.join(0.01)
    spawned.join(0.15)
    spawned.kill()
    spawned.join()
    done = Watch.open(detector, tmp_path / "killed.json").state.images
    assert 0 < done < 3980, "killed while it worked"
    end = done + 20
    _add_many(detector, tmp_path / "killed.json", scores[:end], done)
    whole = Watch.open(detector, tmp_path / "whole.json")
    whole.add(Scored([f"{place}" for place in range(end)], scores[:end]), "all", ordered=True)
    killed = Watch.open(detector, tmp_path / "killed.json").state
    assert (killed.log_stakes, killed.counts) == (whole.state.log_stakes, whole.state.counts)


def rows_of(calibrated, count=5):
    scores = like(calibrated, count).scores
    return [
        {"path": f"{at}.png", "score": score, "p_value": p, "is_ood": "false", "predicted_class": "3"}
        for at, (score, p) in enumerate(zip(scores, calibrated.p_values(scores), strict=True))
    ]


def write_csv(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_tables_of_scores_are_read_csv_and_parquet(calibrated, tmp_path):
    rows = rows_of(calibrated)
    write_csv(tmp_path / "s.csv", rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "s.parquet")
    for name in ("s.csv", "s.parquet"):
        found = read_scores(tmp_path / name, calibrated)
        assert list(found.names) == [row["path"] for row in rows] and found.places is None
        np.testing.assert_array_equal(found.scores, [row["score"] for row in rows])
    boxes = [row | {"x0": at} for at, row in enumerate(rows)]
    assert read_scores(write_csv(tmp_path / "b.csv", boxes), calibrated).names[3] == "3.png 3"


def test_pictures_that_bulk_could_not_read_are_left_out(calibrated, tmp_path):
    rows = [row | {"reason": None} for row in rows_of(calibrated)]
    unread = dict.fromkeys(rows[0]) | {"path": "bad.png", "reason": "it is empty"}
    (tmp_path / "out").mkdir()
    for number, some in enumerate(([rows[0], unread, *rows[1:3]], [unread | {"path": "b.png"}, *rows[3:]])):
        table = pyarrow.Table.from_pylist(some)
        pyarrow.parquet.write_table(table, tmp_path / "out" / f"part-{number:06}.parquet")
    write_csv(tmp_path / "s.csv", [unread, *rows])
    for name, count in (("out", 2), ("s.csv", 1)):
        found = read_scores(tmp_path / name, calibrated)
        assert list(found.names) == [row["path"] for row in rows] and found.unread == count
    wrong = [unread, rows[0] | {"p_value": 2.0}]
    with pytest.raises(InputError, match="w.csv, row 2: its p_value is 2, but of its score"):
        read_scores(write_csv(tmp_path / "w.csv", wrong), calibrated)
    with pytest.raises(InputError, match="w.csv: holds no row with a score"):
        read_scores(write_csv(tmp_path / "w.csv", [unread]), calibrated)
    lacking = [unread, rows[1] | {"score": None}, rows[2]]
    part = tmp_path / "out" / "part-000002.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lacking), part)
    with pytest.raises(InputError, match="000002.parquet, row 2: score None is no finite number; correct or"):
        read_scores(tmp_path / "out", calibrated)


def test_tables_that_do_not_fit_are_refused(calibrated, tmp_path):
    rows = rows_of(calibrated)

    def refused(rows, says):
        with pytest.raises(InputError, match=f"t.csv.*{says}"):
            read_scores(write_csv(tmp_path / "t.csv", rows), calibrated)

    refused([{"path": "a"}], r"no column 'score'; write it with `sslood score` \(columns: path\)")
    refused([{"score": 1}], r"neither a column 'path' nor 'id' says .*\(columns: score\)")
    refused([rows[0], rows[1] | {"score": "much"}], "row 2: score 'much' is no finite number")
    refused([rows[0] | {"score": "nan"}], "row 1: score 'nan' is no finite number")
    wrong = [rows[0], rows[1] | {"p_value": rows[1]["p_value"] / 2}]
    refused(
        wrong, "row 2: its p_value is .*, but of its score this detector says .*; take the scores of this"
    )
    (tmp_path / "t.csv").write_text("path,score\n")
    with pytest.raises(InputError, match="holds no row"):
        read_scores(tmp_path / "t.csv", calibrated)
    with pytest.raises(InputError, match=r"none.csv: no such file; write it with `sslood score`"):
        read_scores(tmp_path / "none.csv", calibrated)


def test_flags_of_thresholds_by_class(calibrated, tmp_path):
    predicted = np.arange(100) % 2
    rule = ByClass.of(calibrated.calibration, predicted, ["3", "5"], 0.05)
    both = type(calibrated)(**{**vars(calibrated), "by_class": rule})
    scores = np.concatenate(
        [np.full(4, calibrated.calibration[-1] + 1), np.full(6, calibrated.calibration[0])]
    )
    batch = Scored([*"abcdefghij"], scores, np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 1]))
    # 50 images each at 5 %: two places of 51 are above the threshold
    groups = [Group(50, 2, 3, 3), Group(50, 2, 7, 1)]
    assert groups_of(batch, both) == groups
    assert judge_batch(batch, both, "b").flags_p == flags_p_value(groups) < 2e-3
    rows = rows_of(calibrated)
    p = rule.p_values(np.array([row["score"] for row in rows]), np.zeros(5, int))
    good = [row | {"p_value": value} for row, value in zip(rows, p, strict=True)]
    assert read_scores(write_csv(tmp_path / "p.csv", good), both).places.tolist() == [0] * 5
    other = write_csv(tmp_path / "q.csv", [row | {"predicted_class": "cat"} for row in good])
    with pytest.raises(InputError, match="q.csv, row 1: predicted_class 'cat' is no class of the detector"):
        read_scores(other, both)
    lacking = [{key: value for key, value in row.items() if key != "predicted_class"} for row in good]
    write_csv(tmp_path / "r.csv", lacking)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lacking), tmp_path / "r.parquet")
    for name in ("r.csv", "r.parquet"):
        with pytest.raises(InputError, match=f"{name}: no column 'predicted_class'; write it with"):
            read_scores(tmp_path / name, both)


def test_classes_may_be_called_as_orders_of_a_spreadsheet(calibrated, tmp_path):
    rule = ByClass.of(calibrated.calibration, np.arange(100) % 2, ["-cold", "%2Dcold"], 0.05)
    both = type(calibrated)(**{**vars(calibrated), "by_class": rule})
    for names, places in (
        (["-cold", "%2Dcold"], [0, 1]),
        ([cell("-cold")], [1]),  # that is the other one's name
    ):
        rows = [{"path": str(at), "score": 0.5, "predicted_class": one} for at, one in enumerate(names)]
        assert read_scores(write_csv(tmp_path / "s.csv", rows), both).places.tolist() == places
    rule = ByClass.of(calibrated.calibration, np.arange(100) % 2, ["-cold", "warm"], 0.05)
    both = type(calibrated)(**{**vars(calibrated), "by_class": rule})
    assert read_scores(tmp_path / "s.csv", both).places.tolist() == [0]


def test_batch_tests_of_a_batch_like_calibration_and_of_another(detector, calibrated):
    calm = judge_batch(like(calibrated, 200, 8), calibrated, "calm")
    assert calm.flags_p > 0.05 and calm.scores_p > 0.05 and calm.images == 200
    changed = judge_batch(like(calibrated, 50, 8, shift=3), calibrated, "changed")
    assert changed.flags_p < 1e-4 and changed.scores_p < 1e-4 and changed.flagged > 10
    assert load_tensors(detector)[1]["checksum"]  # what a stream is bound to
