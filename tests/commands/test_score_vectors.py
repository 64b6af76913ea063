"""`score --vectors`: options to a table of scores, what is said, and what is refused."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sslood.commands import score
from sslood.deploy.scorer import load_deployed
from tests.deploy.test_vector_detectors import NAMES, NEW, deployed
from tests.kit.small import call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    deployed(folder / "d.safetensors", k=5)
    rows = NEW.copy()
    rows[3] = np.nan
    for name, table in {"v": NEW, "nan": rows}.items():
        pq.write_table(
            pa.table({"path": NAMES, "emb": list(table.astype(float))}), folder / f"{name}.parquet"
        )
    return folder


def run(folder, tmp_path, name="v.parquet", out="s.csv", **more):
    return call(
        score.main, detector=folder / "d.safetensors", vectors=folder / name, out=tmp_path / out, **more
    )


@pytest.mark.parametrize("out, read", [("s.csv", pd.read_csv), ("s.parquet", pd.read_parquet)])
def test_a_table_of_vectors_is_scored(folder, tmp_path, capsys, out, read):
    assert run(folder, tmp_path, out=out) == 0
    expected = load_deployed(folder / "d.safetensors").decide_vectors(NEW)
    found = read(tmp_path / out)
    np.testing.assert_array_equal(found["p_value"], expected.p_values)
    said = capsys.readouterr()
    assert f"{expected.is_ood.sum()} of 80 vectors are OOD at a false-alarm rate of 0.05" in said.out
    assert "Warning: what it catches was not measured" in said.err


@pytest.mark.parametrize("option", ["ids", "logits"])
def test_what_belongs_to_the_vectors_is_not_overwritten(folder, tmp_path, capsys, option):
    (tmp_path / "beside.txt").write_text("a\n")
    assert run(folder, tmp_path, out="beside.txt", **{option: tmp_path / "beside.txt"}) == 1
    assert f"--{option} and --out name one file" in capsys.readouterr().err
    assert (tmp_path / "beside.txt").read_text() == "a\n"


def test_rows_of_nan_end_it_or_are_left_out(folder, tmp_path, capsys):
    assert run(folder, tmp_path, "nan.parquet") == 1
    assert "nan.parquet, row 3 (ID 'a/003.jpg'): NaN or infinite numbers" in capsys.readouterr().err
    assert run(folder, tmp_path, "nan.parquet", skip_unreadable=None) == 0
    said = capsys.readouterr()
    assert "row 3 (ID 'a/003.jpg'): NaN or infinite numbers in its vector; left out" in said.err
    assert "of 79 vectors are OOD" in said.out and len(pd.read_csv(tmp_path / "s.csv")) == 79


@pytest.mark.parametrize(
    "options, message",
    [
        ({"images": "."}, "give --images or --vectors, what is to be scored, and not both"),
        ({"vectors": None}, "give --images or --vectors"),
        ({"vectors": None, "images": "."}, "fitted to vectors and has no network, so it cannot see pictures"),
        ({"vectors": None, "images": ".", "ids": "x"}, "--ids is of --vectors; omit it with --images"),
        ({"html": "p.html"}, "--html is of pictures, and --vectors has none; omit it"),
        ({"by_image": "x.csv"}, "--by_image is of pictures, and --vectors has none; omit it"),
        ({"id_images": "y"}, "--id_images is of pictures, and --vectors has none; omit it"),
        ({"out": "s.xlsx"}, "s.xlsx: a table is not written as .xlsx; end its name in .csv or .parquet"),
        ({"vectors": None, "images": ".", "by_image": "x.parquet"}, "as .parquet; end its name in .csv\n"),
        ({"detector": "."}, ".: is a folder; name a file of"),
        ({"fdr": "0.001"}, "a false-discovery rate of 0.001 needs at least 999 calibration images"),
        ({"column": "features"}, "no 'features' for the vectors; it holds path, emb"),
    ],
)
def test_options_that_do_not_go_together(folder, tmp_path, capsys, options, message):
    values = {
        "detector": folder / "d.safetensors",
        "vectors": folder / "v.parquet",
        "out": tmp_path / "s.csv",
    }
    values |= {key: tmp_path / value if key == "html" else value for key, value in options.items()}
    assert call(score.main, **{key: value for key, value in values.items() if value is not None}) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "s.csv").exists()
