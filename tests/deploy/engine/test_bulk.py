"""Pictures through the engine: the decisions of `score`, one row each, from wherever they come."""

import gzip
import io
import itertools
import os
import shutil
import signal
import tarfile
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslood.commands import bulk
from sslood.core.errors import InputError
from sslood.core.names import original
from sslood.deploy import scorer
from sslood.deploy.engine import archives, worker
from sslood.deploy.engine.daft import io_config
from sslood.deploy.engine.parts import Parts
from sslood.deploy.engine.run import Totals, Workers, columns_of, judge_pictures
from sslood.deploy.engine.sources import open_source
from sslood.deploy.engine.worker import Deciding, Worker
from sslood.deploy.thresholds import discoveries
from tests.deploy.engine.conftest import BROKEN, check_same, rows_in, write_tar
from tests.kit.small import call


@pytest.fixture
def run(tmp_path, capsys, detector):
    """Run the command on pictures into tmp_path/out; return (status, what it says)."""

    def run(images, out=tmp_path / "out", **options):
        judge = {} if "model" in options else {"detector": detector}
        status = call(bulk.main, images=images, out=out, **judge, **options)
        return status, "".join(capsys.readouterr())

    return run


def test_a_folder_gives_the_decisions_of_score_and_goes_on_where_it_was(
    tmp_path, monkeypatch, run, pictures, decided
):
    loads = []
    load = worker.load_deployed
    monkeypatch.setattr(worker, "load_deployed", lambda *args: loads.append(args) or load(*args))
    status, said = run(pictures, batch_size=32, fdr=0.2)
    assert status == 0, said
    assert "323 pictures, 323 of them new, 2 could not be read" in said and "1 no picture (.txt)" in said
    found = rows_in(tmp_path / "out")
    check_same(found, decided)
    assert {path: bool(row["reason"]) for path, row in found.items() if row["p_value"] is None} == {
        name: True for name in BROKEN
    }
    assert "not an image that Pillow knows" in found["b/broken.png"]["reason"]
    assert {original(path) for path in found} >= {"a/=1+1,ü 100%41.png", "a/001.png"}
    assert list(next(iter(found.values())))[:5] == ["path", "score", "p_value", "is_ood", "predicted_class"]
    assert len(loads) == 1  # of eleven batches

    shutil.copy(pictures / "a" / "003.png", pictures / "a" / "new.png")
    (tmp_path / "out" / ".part-000001.parquet.99999999.x.part").write_text(
        "half of a part, of a run that was killed"
    )
    try:
        status, said = run(pictures)
        assert status == 0 and "324 pictures, 1 of them new" in said
        again = rows_in(tmp_path / "out")
    finally:
        (pictures / "a" / "new.png").unlink()
    assert again.pop("a/new.png")["p_value"] == found["a/003.png"]["p_value"]
    assert again == found and not [*(tmp_path / "out").glob(".*part")]


def test_pictures_that_could_not_be_read_are_tried_again_when_asked(tmp_path, run, pictures):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(pictures / "a" / "001.png", folder / "good.png")
    (folder / "bad.png").write_bytes(b"\x89PNG")
    assert run(folder)[0] == 0
    shutil.copy(pictures / "a" / "003.png", folder / "bad.png")
    assert "0 of them new" in run(folder)[1]
    status, said = run(folder, retry=None)
    assert status == 0 and "Tried again: 1 picture that could not be read" in said
    assert {path: row["reason"] for path, row in rows_in(tmp_path / "out").items()} == {
        "good.png": None,
        "bad.png": None,
    }


def test_of_an_archive_all_pictures_are_tried_again(tmp_path, run, pictures):
    """It is the archive that is done or not, so its other rows would keep it from being read."""
    folder, shards = tmp_path / "in", tmp_path / "shards"
    for place in (folder, shards):
        place.mkdir()
    shutil.copy(pictures / "a" / "001.png", folder / "good.png")
    write_tar(shards / "whole.tar", folder)
    (folder / "bad.png").write_bytes(b"\x89PNG")
    archive = write_tar(shards / "a.tar", folder)
    assert "3 pictures, 3 of them new, 1 could not be read" in run(f"{shards}/*.tar")[1]
    status, said = run(f"{shards}/*.tar", retry=None)
    assert status == 0 and "3 pictures, 2 of them new, 1 could not be read" in said
    away = archive.rename(tmp_path / "a.tar")
    assert "3 pictures, 0 of them new, 1 could not be read" in run(f"{shards}/*.tar", retry=None)[1]
    away.rename(archive)
    shutil.copy(pictures / "a" / "003.png", folder / "bad.png")
    write_tar(archive, folder)
    status, said = run(f"{shards}/*.tar", retry=None)
    assert "Tried again: 1 picture that could not be read, and all others of the same archives." in said
    assert status == 0 and "3 pictures, 2 of them new; " in said
    found = rows_in(tmp_path / "out")
    assert {path: row["reason"] for path, row in found.items()} == dict.fromkeys(
        ["whole.tar/good.png", "a.tar/good.png", "a.tar/bad.png"]
    )


class Growing(Worker):
    """A worker in whose time another picture comes into the store, or one goes."""

    change = staticmethod(lambda: None)

    def pictures(self, addresses, contents):
        self.change()
        return super().pictures(addresses, contents)


@pytest.mark.parametrize("grows", [True, False])
def test_a_store_that_changes_is_judged_as_it_was_at_the_start(tmp_path, detector, pictures, grows):
    store, io, opener = tmp_path / "store", io_config(False), Deciding(str(detector))
    shutil.copytree(pictures / "a", store)
    source = open_source(f"file://{store}", "path", io)
    parts = Parts(str(tmp_path / "out"), "in", "x", columns_of(source, opener), io)

    def make():
        made = Growing(opener, 1)
        if grows:
            made.change = lambda: shutil.copy(pictures / "a" / "001.png", store / "new.png")
        return made

    if not grows:
        (store / "001.png").unlink()  # after it was listed: a row with the reason
    assert source.count == 161
    assert judge_pictures(source, opener, parts, Workers(), io=io, make=make) == 161
    found = rows_in(tmp_path / "out")
    lost = [path for path, row in found.items() if row["reason"]]
    assert len(found) == 161 and len(lost) == (0 if grows else 1)


class Dying(Worker):
    """A worker whose process is killed at the picture 160.png, as long as a file is there."""

    flag = ""

    def pictures(self, addresses, contents):
        if any("160.png" in address for address in addresses) and os.path.exists(self.flag):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pictures(addresses, contents)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the engine leaves pipes open
def test_a_worker_that_is_killed_loses_no_row_and_doubles_none(tmp_path, detector, pictures, decided):
    flag, io = tmp_path / "flag", io_config(False)
    flag.touch()
    opener, source = Deciding(str(detector)), open_source(str(pictures), "path", None)
    parts = Parts(str(tmp_path / "out"), "in", "x", columns_of(source, opener), io)

    def make():
        made = Dying(opener, 1, batch_size=16)
        made.flag = str(flag)
        return made

    team = Workers(1, batch_size=16, processes=True)
    with pytest.raises(InputError, match="a worker was killed .* run the same command again to go on"):
        judge_pictures(source, opener, parts, team, io=io, make=make)
    before = rows_in(tmp_path / "out")
    assert 0 < len(before) < 320
    flag.unlink()
    parts = Parts(str(tmp_path / "out"), "in", "x", columns_of(source, opener), io)
    new = judge_pictures(source, opener, parts, Workers(batch_size=16), io=io)
    found = rows_in(tmp_path / "out")
    assert new == len(found) - len(before) and len(found) == len(decided) + len(BROKEN)
    check_same(found, decided)


def test_a_run_that_waited_for_another_sees_what_that_has_written(tmp_path, detector, pictures):
    where, io, opener = str(tmp_path / "out"), io_config(False), Deciding(str(detector))
    source = open_source(str(pictures / "b"), "path", None)
    one, two = (Parts(where, "in", "x", columns_of(source, opener), io) for _ in range(2))
    with one.alone():
        for work in (two.forget_unread, lambda: judge_pictures(source, opener, two, Workers(), io=io)):
            with pytest.raises(InputError, match="out: another run writes there; wait for its end"):
                work()
    assert judge_pictures(source, opener, one, Workers(), io=io) == 161
    before = rows_in(tmp_path / "out")
    assert judge_pictures(source, opener, two, Workers(), io=io) == 0
    two.files = []  # as of a run that did not look again
    two.add(pq.read_table(one.files[0]).slice(0, 1).drop_columns(["source", "made_by"]))
    two.flush()
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == [
        "part-000000.parquet",
        "part-000001.parquet",
    ]
    assert pq.read_table(one.files[0]).num_rows == len(before)


def test_a_relative_path_is_that_of_its_folder(run, tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name / "in").mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / name / "in" / "a.png")
    monkeypatch.chdir(tmp_path / "one")
    for place, new in (("in", 1), ("in/", 0), (tmp_path / "one" / "in", 0), ("../one/in", 0)):
        status, said = run(place)
        assert status == 0 and f"1 picture, {new} of them new; 1 is OOD at" in said, said
    monkeypatch.chdir(tmp_path / "two")
    status, said = run("in")
    assert status == 1 and "holds results of other pictures" in said
    assert f"({tmp_path}/one/in, now {tmp_path}/two/in)" in said


def test_each_box_of_a_picture_is_a_row_also_where_a_run_goes_on(run, tmp_path):
    """A run that was killed may have written some boxes of a picture, and a list may grow."""
    Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30).astype(np.uint8)).save(tmp_path / "a.png")
    rows = [f"a.png,{x},0,{x + 9},9" for x in (0, 9, 18)]
    for count, new in ((1, 1), (3, 2), (3, 0)):
        (tmp_path / "list.csv").write_text("\n".join(["path,x0,y0,x1,y1", *rows[:count]]))
        status, said = run(tmp_path / "list.csv")
        pictures = "1 picture" if count == 1 else f"{count} pictures"
        assert status == 0 and f"{pictures}, {new} of them new" in said, said
    found = pq.read_table(tmp_path / "out").to_pylist()
    assert sorted((row["path"], row["x0"]) for row in found) == [("a.png", x) for x in ("0", "18", "9")]


def test_a_folder_may_be_called_as_a_pattern(run, pictures, tmp_path):
    for new in (161, 0):
        status, said = run(pictures / "b", out=tmp_path / "o [v1] {a,b}", fdr=0.2)
        assert status == 0 and f"161 pictures, {new} of them new" in said, said


@pytest.mark.parametrize(
    ("rate", "words"),
    [(5.0, "--fdr must be above 0 and below 1, found 5.0"), (0.1, "there are 3; calibrate")],
)
def test_a_rate_is_refused_before_any_picture_is_judged(monkeypatch, run, pictures, tmp_path, rate, words):
    """By class, p-values are as fine as those of the class with the fewest calibration images."""
    by_class = SimpleNamespace(fewest=3, threshold=SimpleNamespace(images=100, alpha=0.1))
    monkeypatch.setattr(scorer, "load_deployed", lambda path: SimpleNamespace(calibrated=by_class))
    status, said = run(pictures, fdr=rate)
    assert status == 1 and words in said and not (tmp_path / "out").exists()


def test_an_engine_that_ends_early_is_no_success(monkeypatch, run, pictures):
    from sslood.deploy.engine import run as running

    judged = running._rows
    monkeypatch.setattr(running, "_rows", lambda frame, *rest: judged(frame.limit(40), *rest))
    status, said = run(pictures)
    assert status == 130 and "run the same command again to go on" in said
    monkeypatch.undo()
    status, said = run(pictures)
    assert status == 0 and "323 pictures, 283 of them new" in said


def test_shards_are_read_once_from_front_to_end(tmp_path, run, pictures, decided):
    shards = tmp_path / "shards"
    shards.mkdir()
    write_tar(shards / "a.tar", pictures / "a")
    whole = write_tar(tmp_path / "b.tar.gz", pictures / "b", "w:gz").read_bytes()
    (shards / "b.tar.gz").write_bytes(whole[: len(whole) * 2 // 3])
    status, said = run(f"{shards}/*.tar*", batch_size=50)
    assert status == 0, said
    found = rows_in(tmp_path / "out")
    reasons = {path: row["reason"] for path, row in found.items() if row["reason"]}
    assert "the archive ends early or is damaged" in reasons.pop("b.tar.gz") and len(reasons) == 1
    assert {row["shard"] for row in found.values()} == {f"{shards}/a.tar", f"{shards}/b.tar.gz"}
    read = {
        path.replace(".tar.gz", "").replace(".tar", ""): row
        for path, row in found.items()
        if path != "b.tar.gz"
    }
    assert sum(path.startswith("a/") for path in read) == 161 and 20 < len(read) - 161 < 160
    check_same(read, {path: row for path, row in decided.items() if path in read})
    assert "0 of them new" in run(f"{shards}/*.tar*")[1]


HEADER = 3 * 1024  # of the fourth member, if each has at most 512 bytes


@pytest.mark.parametrize(
    "damaged",
    [
        lambda whole: whole[:HEADER],
        lambda whole: whole[: HEADER + 100],
        lambda whole: whole[:HEADER] + b"x" + whole[HEADER + 1 :],
    ],
    ids=["ends at a header", "ends within a header", "a header is damaged"],
)
def test_an_archive_without_its_end_says_so(tmp_path, damaged):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(b"picture")
    whole = write_tar(tmp_path / "a.tar", folder).read_bytes()
    assert [picture.name for picture in archives.members(io.BytesIO(whole))] == [f"{n}.png" for n in range(6)]
    *found, last = archives.members(io.BytesIO(damaged(whole)))
    assert [picture.name for picture in found] == ["0.png", "1.png", "2.png"]
    assert last.name == "" and last.reason.startswith(archives.ENDS_EARLY)


def header(kind=tarfile.REGTYPE, size=0, name="x"):
    """A tar header, whatever follows it."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def blocks(content):
    return content + bytes(-len(content) % 512)


def sparse():
    """A sparse member whose map goes on for 50 MB."""
    start = bytearray(header(tarfile.GNUTYPE_SPARSE, name="x.png"))
    start[482] = 1
    start[148:156] = b" " * 8
    start[148:156] = b"%06o\0 " % sum(start)
    hole = (b"%011o\0" % 8) * 42
    return bytes(start) + (hole + b"\1" + bytes(7)) * 100_000


def record(kind, key, value):
    """A header of a key and its value, in a line that begins with its length."""
    rest = f" {key}=".encode() + value + b"\n"
    length = next(n for n in itertools.count(len(rest)) if n == len(rest) + len(str(n)))
    return header(kind, length) + blocks(str(length).encode() + rest)


def of_all(number):
    """A header for all members that follow, of 900 kB, and one of these."""
    return record(tarfile.XGLTYPE, f"key{number}", b"v" * 900_000) + header()


HEADERS = {
    "long name": lambda: header(tarfile.GNUTYPE_LONGNAME, 50 << 20) + bytes(b"a" * (50 << 20)),
    "pax": lambda: record(tarfile.XHDTYPE, "path", b"a" * (50 << 20)) + header(),
    "map of a sparse member": sparse,
    "headers for all": lambda: b"".join(map(of_all, range(50))),
    "members without content": lambda: header() * 200_000,
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_small_archive_takes_little_memory(name):
    """Headers that take some kB in the file and 50 MB or more once they are unpacked."""
    whole = gzip.compress(HEADERS[name]() + bytes(1024), 1)
    tracemalloc.start()
    found = [*archives.members(io.BytesIO(whole))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - len(whole) < 16 << 20
    if name == "members without content":
        assert not found
    else:
        assert [picture.name for picture in found] == [""]
        assert "more than 1 MiB of headers" in found[0].reason


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "content",
    [
        header(size=1 << 62) + bytes(2048),
        record(tarfile.XHDTYPE, "path", b"x.png") * 400 + header(),
        record(tarfile.XHDTYPE, "GNU.sparse.map", b",") + header() + bytes(1024),
        record(tarfile.XGLTYPE, "GNU.sparse.major", b"1")
        + record(tarfile.XHDTYPE, "GNU.sparse.minor", b"0")
        + header(),
    ],
    ids=["a size that nothing has", "headers of headers", "a map of no numbers", "a map that ends"],
)
def test_an_archive_that_lies_is_a_row_with_the_reason(content):
    (found,) = archives.members(io.BytesIO(content))
    assert found.name == "" and found.reason.startswith(archives.ENDS_EARLY)


def test_a_parquet_table_keeps_its_columns(tmp_path, run, pictures, decided):
    names = [path for path in decided if "%" not in path]
    table = {"file": [f"pictures/{name}" for name in names], "score": [*range(len(names))]}
    pq.write_table(pa.table(table), pictures.parent / "list.parquet")
    status, said = run(pictures.parent / "list.parquet", column="file")
    assert status == 0, said
    found = rows_in(tmp_path / "out")
    assert [found[f"pictures/{name}"]["list_score"] for name in names] == table["score"]
    check_same(
        {path.removeprefix("pictures/"): row for path, row in found.items()}, {n: decided[n] for n in names}
    )


def test_vectors_are_those_of_the_network(tmp_path, run, detector, pictures, decided):
    from sslood.deploy.pictures import chain_of, read_pictures
    from sslood.deploy.scorer import load_deployed
    from sslood.nets.inference.extract import batches, extract

    assert run(pictures, model=detector)[0] == 0
    found = rows_in(tmp_path / "out")
    assert {path for path, row in found.items() if row["features"] is None} == {*BROKEN}
    scorer = load_deployed(detector)
    ((_, images),) = read_pictures([pictures / "a" / "007.png"], chain_of(scorer.metadata))
    own = extract(scorer.model, batches(images, 1), mean=scorer.metadata["mean"], std=scorer.metadata["std"])
    for name in ("features", "logits"):
        np.testing.assert_allclose(found["a/007.png"][name], own[name][0], rtol=1e-5, atol=1e-6)


def test_judged_together_as_benjamini_and_hochberg_do(detector):
    rng = np.random.default_rng(1)
    p = np.concatenate([rng.integers(1, 102, 400) / 101, rng.integers(1, 4, 60) / 101])
    values, counts = np.unique(p, return_counts=True)
    found = Totals(470, 10, 0, dict(zip(values.tolist(), counts.tolist(), strict=True)))
    for rate in (0.05, 0.1, 0.3):
        assert np.array_equal(p <= found.cut(rate, 100), discoveries(p, rate, 100))
    with pytest.raises(InputError, match="needs at least"):
        found.cut(0.001, 100)
    assert Totals(3, 0, 0, {k / 20: 1 for k in (2, 10, 13)}).cut(0.3, 19) == 0.1  # 3 * 0.1 is 0.3
    for count in range(1, 200):  # also where rounding decides
        p = np.arange(1, count + 1) / 200
        found = Totals(count, 0, 0, dict.fromkeys(p.tolist(), 1))
        assert [found.cut(count / 200, 1000)] == p[discoveries(p, count / 200, 1000)][-1:].tolist()


def test_bad_input_is_refused_in_a_sentence(tmp_path, run, detector, pictures):
    assert run(pictures / "b", gpus=-1)[0] == 2
    assert run(pictures / "b")[0] == 0
    status, said = run(pictures / "a")
    assert status == 1 and "holds results of other pictures" in said and "take another --out" in said
    status, said = run(pictures / "b", model=detector)
    assert status == 1 and "holds the columns path" in said
    other = tmp_path / "other.safetensors"
    shutil.copy(detector, other)
    with open(other, "ab") as file:
        file.write(b" ")
    pq.write_table(pa.table({"name": ["a"], "label": [1]}), tmp_path / "t.parquet")
    status, said = run(tmp_path / "t.parquet", out=tmp_path / "o")
    assert status == 1 and "has no column 'path'; its columns are name, label" in said
    for paths, words in {
        ("x.png", "y.png", "x.png"): "lists 'x.png' 2 times",
        ("x.png", None): "1 of 2 rows have no 'path'",
        ("x.png", "s3://b/y.png"): "holds paths and addresses",
        (): "lists no picture",
    }.items():
        pq.write_table(pa.table({"path": pa.array(paths, pa.string())}), tmp_path / "t.parquet")
        status, said = run(tmp_path / "t.parquet", out=tmp_path / "o")
        assert status == 1 and words in said, said
    assert "no such file" in run(tmp_path / "*.tar", out=tmp_path / "o")[1]
    assert "does not exist" in run(tmp_path / "nowhere", out=tmp_path / "o")[1]
