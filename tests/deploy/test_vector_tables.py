"""Vectors of .npy, .safetensors and parquet: what is read, against pyarrow and NumPy, and what is refused."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from sslood.core.errors import InputError
from sslood.deploy.tables.examples import all_rows
from sslood.deploy.tables.fitted import fit_vectors
from sslood.deploy.tables.reading import open_vectors
from tests.commands.test_vectors import DAMAGED, damaged

ROWS = np.random.default_rng(0).normal(size=(25, 4)).astype(np.float32)
NAMES = [f"{place:02}.jpg" for place in range(25)]
LABELS = [place % 3 for place in range(25)]


def lists(rows=ROWS, kind=None):
    return pa.array([None if row is None else list(map(float, row)) for row in rows], kind)


def parquet(path, rows=ROWS, names=NAMES, **more):
    columns = {"id": names, "embedding": lists(rows), **more}
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return path


def joined(table, size=8):
    batches = list(table.batches(size))
    assert max(map(len, batches)) <= size
    return sum((batch.ids for batch in batches), []), np.concatenate([batch.vectors for batch in batches])


@pytest.mark.parametrize("kind", ["list", "fixed", "columns", "half", "safetensors", "npy", "folder"])
def test_every_format_gives_the_same_rows(tmp_path, kind):
    path, expected, ids = tmp_path / "v.parquet", ROWS, NAMES
    if kind == "list":
        parquet(path)
    elif kind == "fixed":
        parquet(path, embedding=lists(kind=pa.list_(pa.float64(), 4)))
    elif kind == "columns":
        pq.write_table(pa.table({"path": NAMES, **{f"x{i}": ROWS[:, i] for i in range(4)}}), path)
    elif kind == "half":
        expected = ROWS.astype(np.float16).astype(np.float32)
        flat = pa.array(ROWS.astype(np.float16).ravel())
        pq.write_table(pa.table({"name": NAMES, "v": pa.FixedSizeListArray.from_arrays(flat, 4)}), path)
    elif kind == "folder":
        path = tmp_path / "parts"
        for start, name in ((0, "a/0.parquet"), (10, "a/1.parquet"), (20, "b.parquet")):
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            rows = slice(start, start + 10)
            parquet(path / name, ROWS[rows], NAMES[rows])
    elif kind == "safetensors":
        path, ids = tmp_path / "v.safetensors", list(range(25))
        save_file({"v": ROWS, "labels": np.arange(25)}, path)
    else:
        path, ids = tmp_path / "v.npy", list(range(25))
        np.save(path, ROWS.astype(np.float64))
    table = open_vectors(path)
    found, rows = joined(table)
    assert found == ids and (len(table), table.width) == (25, 4) and rows.dtype == np.float32
    np.testing.assert_array_equal(rows, expected)


def test_ids_labels_and_logits_of_a_column_or_a_file_beside(tmp_path):
    logits = ROWS[:, :3] * 2
    path = parquet(tmp_path / "v.parquet", logits=lists(logits), kind=[f"c{label}" for label in LABELS])
    (batch,) = open_vectors(path, column="embedding", logits="logits", labels="kind").batches()
    np.testing.assert_array_equal(batch.logits, logits)
    assert batch.labels == [f"c{label}" for label in LABELS] and batch.ids == NAMES
    np.save(tmp_path / "v.npy", ROWS)
    np.save(tmp_path / "logits.npy", logits)
    np.save(tmp_path / "labels.npy", LABELS)
    (tmp_path / "ids.txt").write_text("\n".join(NAMES) + "\n")
    beside = {part: str(tmp_path / f"{part}{end}") for part, end in
              (("ids", ".txt"), ("logits", ".npy"), ("labels", ".npy"))}  # fmt: skip
    table = open_vectors(tmp_path / "v.npy", **beside)
    table.check_ids()
    found = list(table.batches(10))
    np.testing.assert_array_equal(np.concatenate([one.logits for one in found]), logits)
    assert sum((one.labels for one in found), []) == LABELS and sum((one.ids for one in found), []) == NAMES


def test_dimensions_are_taken_by_the_names_that_a_detector_knows(tmp_path):
    """A table whose columns stand in another order gives the same vectors."""
    columns = {f"x{i}": ROWS[:, i] for i in range(4)}
    pq.write_table(pa.table({"age": ROWS[:, 0], **dict(reversed(columns.items()))}), tmp_path / "v.parquet")
    np.testing.assert_array_equal(joined(open_vectors(tmp_path / "v.parquet", known=list(columns)))[1], ROWS)
    by_pattern = open_vectors(tmp_path / "v.parquet", column="x?")
    np.testing.assert_array_equal(joined(by_pattern)[1], ROWS[:, ::-1])
    with pytest.raises(
        InputError, match=r"v.parquet: no 'x4', which the detector was fitted to; it holds age"
    ):
        open_vectors(tmp_path / "v.parquet", known=["x0", "x4"])


def spoiled(**changes):
    rows = [list(row) for row in ROWS]
    for place, value in changes.items():
        rows[int(place[1:])] = value
    return rows


BAD = {
    "another width": (
        {"rows": spoiled(r9=[1.0, 2.0])},
        r"v.parquet, row 9 \(ID '09.jpg'\): embedding is 2 wide, where the rows before are 4 wide",
    ),
    "NaN": (
        {"rows": spoiled(r3=[1.0, np.nan, 0, 0], r12=[np.inf, 0, 0, 0])},
        r"v.parquet, row 3 \(ID '03.jpg'\): NaN or infinite numbers in its vector",
    ),
    "no vector": ({"rows": spoiled(r8=None)}, r"row 8 \(ID '08.jpg'\): no vector"),
    "beyond float32": (
        {"rows": spoiled(r8=[1e300, 0, 0, 0])},
        r"row 8 \(ID '08.jpg'\): numbers too large for float32 in its vector; .* with --skip_unreadable$",
    ),
    "beyond float32 and NaN": (
        {"rows": spoiled(r8=[1e300, np.nan, 0, 0])},
        r"row 8 \(ID '08.jpg'\): NaN or infinite",
    ),
    "an ID twice": (
        {"names": ["a", *NAMES[1:20], "a", *NAMES[21:]]},
        r"v.parquet, row 20 \(ID 'a'\): row 0 has the same ID; keep one",
    ),
    "no ID": (
        {"names": [*NAMES[:5], None, *NAMES[6:]]},
        r"row 5 \(ID 5\): has no ID in the column 'id'; IDs",
    ),
    "IDs that are fractions": (
        {"names": [i / 2 for i in range(25)]},
        r"row 0 \(ID 0\): has the ID 0.0 in the column 'id'",
    ),
    "texts": ({"embedding": NAMES}, "holds string, expected numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_with_its_id(tmp_path, case):
    changes, message = BAD[case]
    parquet(tmp_path / "v.parquet", **changes)
    table = open_vectors(tmp_path / "v.parquet", column="embedding", ids="id")
    with pytest.raises(InputError, match=message):
        table.check_ids()
        list(table.batches(8))


def test_rows_without_a_finite_vector_may_be_left_out(tmp_path):
    skipped = []
    path = parquet(tmp_path / "v.parquet", rows=spoiled(r3=[1.0, np.nan, 0, 0], r8=None))
    ids, rows = joined(open_vectors(path, skipped=skipped))
    kept = [place for place in range(25) if place not in (3, 8)]
    assert ids == [NAMES[place] for place in kept]
    np.testing.assert_array_equal(rows, ROWS[kept])
    assert [text.partition(", ")[2] for text in skipped] == [
        "row 3 (ID '03.jpg'): NaN or infinite numbers in its vector",
        "row 8 (ID '08.jpg'): no vector",
    ]


@pytest.mark.parametrize("lacking", [1, 9000])
def test_the_width_is_that_of_the_first_row_with_a_vector(tmp_path, lacking):
    rows, names = [*[None] * lacking, *ROWS], [*map(str, range(lacking + 25))]
    skipped = []
    table = open_vectors(parquet(tmp_path / "v.parquet", rows, names), skipped=skipped)
    assert table.width == 4
    found, _, _ = all_rows(table, lambda count: None)
    np.testing.assert_array_equal(found, ROWS)
    assert len(skipped) == lacking
    with pytest.raises(InputError, match=r"v.parquet, rows? 0 \(ID '0'\).*: no vector"):
        all_rows(open_vectors(tmp_path / "v.parquet", ids="id"), lambda count: None)


def test_no_vector_at_all_is_no_table(tmp_path):
    empty = pa.array([None] * 3, pa.list_(pa.float32()))
    path = parquet(tmp_path / "v.parquet", names=["a", "b", "c"], embedding=empty)
    with pytest.raises(InputError, match="v.parquet: no row has a vector"):
        all_rows(open_vectors(path, skipped=[]), lambda count: None)
    with pytest.raises(InputError, match="vectors: no row has a vector"):
        fit_vectors(np.zeros((0, 16)), alpha=0.05)


def arrays(tmp_path, array):
    np.save(tmp_path / "v.npy", array)
    return tmp_path / "v.npy"


def series():
    return {f"e{place}": ROWS[:, place] for place in range(4)}


FILES = {
    "no such column": (parquet, {"column": "emb"}, "no 'emb' for the vectors; it holds id, embedding"),
    "no such labels": (parquet, {"labels": "y"}, "no 'y' for the labels; it holds id, embedding"),
    "not clear": (
        lambda path: pq.write_table(pa.table({"a": lists(), "b": lists()}), path) or path,
        {}, "it is not clear what holds the vectors; name it with --column; it holds a, b",
    ),
    "a price beside": (
        lambda path: pq.write_table(pa.table({**series(), "price": ROWS[:, 0]}), path) or path,
        {}, r"price would be part of the vector beside e0 … e3: all hold fractions; .*--column 'e\[0-9\]\*'",
    ),
    "whole numbers between": (
        lambda path: pq.write_table(pa.table({**series(), "e2": np.arange(25)}), path) or path,
        {}, "e2 would be left out of the vector e0, e1, e3, as it holds no fractions; store it like",
    ),
    "texts between": (
        lambda path: pq.write_table(pa.table({"id": NAMES, **series(), "e2": NAMES}), path) or path,
        {}, "e2 would be left out of the vector e0, e1, e3, as it holds no fractions",
    ),
    "the only texts between": (
        lambda path: pq.write_table(pa.table({**series(), "e2": NAMES}), path) or path,
        {}, "e2 would be left out of the vector e0, e1, e3, as it holds no fractions",
    ),
    "the only texts in a pattern": (
        lambda path: pq.write_table(pa.table({**series(), "e2": NAMES}), path) or path,
        {"column": "e*"}, "e2 .*expected numbers",
    ),
    "no parquet": (lambda path: path.write_bytes(b"PAR1") and path, {}, "cannot be read as parquet"),
    "no file": (lambda path: path, {}, "v.parquet: no such file; name a file of vectors: .npy"),
    "no folder": (lambda path: path.parent, {}, "holds no parquet file; name a file"),
    "another kind": (
        lambda path: arrays(path.parent, ROWS).rename(path.parent / "v.txt"),
        {}, "v.txt: this kind of file is not known; .* save a CSV file as parquet",
    ),
    "objects": (lambda path: arrays(path.parent, np.array([[None]])), {}, "v.npy: is no array that numpy"),
    "complex": (lambda path: arrays(path.parent, ROWS * 1j), {}, r"holds complex\S+ of shape \(25, 4\)"),
    "one number a row": (lambda path: arrays(path.parent, ROWS[:, 0]), {}, r"of shape \(25,\), expected"),
    "no rows": (lambda path: arrays(path.parent, ROWS[:0]), {}, "v.npy: holds no vectors"),
    "no beside": (lambda path: arrays(path.parent, ROWS), {"ids": "none.txt"}, "none.txt: no such file"),
    "other parts": (
        lambda path: parquet(path) and parquet(path.with_name("w.parquet"), more=NAMES).parent,
        {}, "w.parquet: has other columns than",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_used_says_what_it_holds(tmp_path, case):
    write, options, message = FILES[case]
    with pytest.raises(InputError, match=message):
        list(open_vectors(write(tmp_path / "v.parquet"), **options).batches())


def test_columns_without_numbers_are_a_vector_of_measurements(tmp_path):
    pq.write_table(
        pa.table({"height": ROWS[:, 0], "width": ROWS[:, 1], "year": np.arange(25)}), tmp_path / "v.parquet"
    )
    assert list(open_vectors(tmp_path / "v.parquet").columns) == ["height", "width"]


@pytest.mark.parametrize("pattern", ["e?", "e[0-9]*"])
def test_a_pattern_takes_the_series_and_its_whole_numbers(tmp_path, pattern):
    table = pa.table({**series(), "e2": np.arange(25), "price": ROWS[:, 0]})
    pq.write_table(table, tmp_path / "v.parquet")
    found = open_vectors(tmp_path / "v.parquet", column=pattern)
    np.testing.assert_array_equal(joined(found)[1][:, 2], np.arange(25))


@pytest.mark.parametrize("header", DAMAGED)
def test_a_damaged_array_is_named(tmp_path, header):
    with pytest.raises(InputError, match="v.npy: is no array that numpy.load can read .*; save it by"):
        open_vectors(damaged(tmp_path / "v.npy", header))


def test_a_file_beside_of_another_length_is_refused(tmp_path):
    (tmp_path / "ids.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"ids.txt' has 2 rows, but there are 25 vectors"):
        open_vectors(arrays(tmp_path, ROWS), ids=str(tmp_path / "ids.txt"))


def test_what_was_read_is_not_kept(tmp_path):
    """60 row groups of 100 kB: of Arrow's memory, a few are in use at a time."""
    rows = np.zeros((60 * 1000, 25), np.float32)
    table = pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 25)})
    pq.write_table(
        table, tmp_path / "v.parquet", row_group_size=1000, use_dictionary=False, compression="none"
    )
    del table
    before = pa.total_allocated_bytes()
    most = (
        max(pa.total_allocated_bytes() for _ in open_vectors(tmp_path / "v.parquet").batches(1000)) - before
    )
    assert most < rows.nbytes / 8


def test_without_pyarrow_the_package_is_named(tmp_path, monkeypatch):
    parquet(tmp_path / "v.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match="v.parquet: parquet needs the package pyarrow: pip install -r req"):
        open_vectors(tmp_path / "v.parquet")
