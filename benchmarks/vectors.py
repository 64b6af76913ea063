"""A table of vectors scored in batches, beside pandas with all of it in memory: seconds and peak memory.

    python -m benchmarks.vectors                     # 10^5 and 10^6 vectors of 128 numbers, 0.5 GB of parquet
    python -m benchmarks.vectors --vectors 100000

Both read one parquet file with IDs and a column of lists, score it by the same detector file (the distance to
the 5th nearest of 2,000 vectors), and write parquet. Each run is a process of its own; medians of three.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sslood.deploy.scorer import load_deployed
from sslood.deploy.tables.fitted import fit_vectors, save_vectors
from sslood.deploy.tables.reading import open_vectors
from sslood.deploy.tables.scored import score_table

WIDTH, NORMAL, RUNS, BATCH = 128, 3000, 3, 10_000


def write(folder: Path, count: int) -> None:
    """Write a detector file, and a table of `count` vectors."""
    random = np.random.default_rng(0)
    scale = (np.arange(1, WIDTH + 1) ** -0.5).astype(np.float32)
    normal = random.standard_normal((NORMAL, WIDTH), np.float32) * scale + 1
    save_vectors(folder / "d.safetensors", fit_vectors(normal, alpha=0.05, detector="knn"))
    schema = pa.schema({"id": pa.string(), "embedding": pa.list_(pa.float32(), WIDTH)})
    with pq.ParquetWriter(folder / "v.parquet", schema) as file:
        for start in range(0, count, BATCH):
            rows = random.standard_normal((min(BATCH, count - start), WIDTH), np.float32) * scale + 1
            ids = [f"images/{start + place:08}.jpg" for place in range(len(rows))]
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), WIDTH)
            file.write_table(pa.table([pa.array(ids), vectors], schema=schema))


def score(folder: Path, how: str) -> None:
    """Score the table, and print seconds and peak memory in MB as JSON."""
    scorer, begin = load_deployed(folder / "d.safetensors"), time.perf_counter()
    if how == "batches":
        score_table(scorer, open_vectors(folder / "v.parquet"), folder / "s.parquet")
    else:
        table = pd.read_parquet(folder / "v.parquet")
        decisions = scorer.decide_vectors(np.stack(table["embedding"].to_list()))
        found = {"path": table["id"], "score": decisions.scores, "p_value": decisions.p_values}
        pd.DataFrame(found | {"is_ood": decisions.is_ood}).to_parquet(folder / "p.parquet")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    print(json.dumps([time.perf_counter() - begin, peak]))


def compare(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, count)
        found: dict[str, list[list[float]]] = {"batches": [], "pandas": []}
        for _ in range(RUNS):
            for how, runs in found.items():
                command = [sys.executable, "-m", "benchmarks.vectors", "--run", how, "--folder", name]
                runs.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
        ours, theirs = pd.read_parquet(folder / "s.parquet"), pd.read_parquet(folder / "p.parquet")
        same = (ours["path"] == theirs["path"]).all() and np.allclose(ours["score"], theirs["score"])
    (seconds, peak), (other, more) = (
        [median(part) for part in zip(*runs, strict=True)] for runs in found.values()
    )
    print(
        f"{count:9,} vectors: {seconds:6.1f} s ({count / seconds:,.0f} a second), peak {peak:5.0f} MB; "
        f"pandas {other:6.1f} s, {more:5.0f} MB: {other / seconds:.2f} times as fast, {peak / more:.2f} of "
        f"its memory; scores equal: {same} (medians of {RUNS})",
        flush=True,
    )


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vectors", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--run")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args([] if words is None else words)
    if given.run:
        score(given.folder, given.run)
    else:
        for count in given.vectors:
            compare(count)


if __name__ == "__main__":
    main(sys.argv[1:])
