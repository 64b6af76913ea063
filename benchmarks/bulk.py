"""Pictures of a folder through `bulk`, beside `score`, and through a run that is killed on its way.

    python -m benchmarks.bulk
    python -m benchmarks.bulk --count 100000 --rounds 1

Small JPEG pictures and a small network (32 px), so that what the engine adds would show. Every side is a
process of its own, its start included; the rows of all are compared. The killed run gets SIGKILL as soon as
a part is written, and is started again. Peer of the ratios: `score`, in the same round. Takes some minutes on
two cores.
"""

import argparse
import contextlib
import csv
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq

from benchmarks import folder as pictures
from sslood.core.files import load_tensors
from sslood.deploy.calibrated import DETECTORS, calibrate
from sslood.deploy.inputs import Inputs
from sslood.deploy.pictures import chain_of, find_pictures, read_pictures
from sslood.deploy.scorer import save_deployed
from sslood.nets.inference.extract import batches, extract
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.files import restore_model, save_model
from sslood.ood.kit.outputs import Outputs


def make_detector(images: Path, out: Path) -> None:
    """Write Mahalanobis' detector of an untrained network, fitted to the first pictures."""
    mean = [0.5] * 3
    with seeded(0):
        backbone = build_backbone("resnet-8-4", channels=3)
    card = ModelCard(
        name="untrained", arch="resnet-8-4", objective="scratch", seed=0, size=32, channels=3, mean=mean,
        std=mean, feature_dim=backbone.feature_dim, resize="", id="x", classes=["x"],
    )  # fmt: skip
    save_model(out, {"backbone": backbone}, card)
    tensors, metadata = load_tensors(out, kind="model")
    arrays = {key: np.array(array) for key, array in tensors.items()}
    model = restore_model(arrays, metadata, out)
    found = find_pictures(images).paths[:3000]
    read = [image for _, image in read_pictures(found, chain_of(metadata))]
    features = extract(model, batches(np.concatenate(read), 256), mean=mean, std=mean)["features"]
    parts = [Inputs(Outputs("x", features[rows], labels=np.zeros(len(features[rows]), int), classes=1))
             for rows in (slice(0, 2000), slice(2000, 3000))]  # fmt: skip
    fitted = calibrate({"mahalanobis": DETECTORS["mahalanobis"]()}, *parts, alpha=0.05)
    save_deployed(out, arrays, metadata, fitted)


def run(module: str, *words: str) -> tuple[float, float]:
    """Run a command; return (seconds, peak memory in MB of it and the processes that it starts)."""
    begin, peak = time.perf_counter(), 0.0
    process = subprocess.Popen([sys.executable, "-m", f"sslood.commands.{module}", *words])
    while process.poll() is None:
        peak = max(peak, _memory(process.pid))
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{module} ended with status {process.returncode}")
    return time.perf_counter() - begin, peak


def _memory(pid: int) -> float:
    """Return the resident memory in MB of a process and those below it, 0 for one that has ended."""
    with contextlib.suppress(psutil.Error):
        here = psutil.Process(pid)
        return sum(one.memory_info().rss for one in (here, *here.children(recursive=True))) / 1e6
    return 0.0


def rows(out: Path) -> dict[str, float]:
    """Return the p-values of a table or of parts; a picture must be there once."""
    if out.is_file():
        with open(out, newline="", encoding="utf-8") as file:
            found = [(row["path"], float(row["p_value"])) for row in csv.DictReader(file)]
    else:
        tables = [pq.read_table(part, columns=["path", "p_value"]) for part in out.glob("*.parquet")]
        found = [tuple(row.values()) for table in tables for row in table.to_pylist()]
    if len(found) != len(dict(found)):
        sys.exit(f"{out}: a picture has two rows")
    return dict(found)


def killed(out: Path, *words: str) -> int:
    """Start `bulk`, kill it when the first rows are written, and return how many there were."""
    process = subprocess.Popen([sys.executable, "-m", "sslood.commands.bulk", *words], start_new_session=True)
    while process.poll() is None and len(list(out.glob("part-*.parquet"))) < 1:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return len(rows(out))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    given, _ = parser.parse_known_args()
    pictures.COUNT = given.count
    with tempfile.TemporaryDirectory() as name:
        where = Path(name)
        pictures.make(where / "in")
        make_detector(where / "in", where / "d.safetensors")
        common = ("--detector", str(where / "d.safetensors"), "--images", str(where / "in"))
        sides = {
            "score": ("score", *common, "--out", str(where / "s.csv")),
            "bulk, 1 worker": ("bulk", *common, "--out", str(where / "one")),
            "bulk, 2 workers": ("bulk", *common, "--out", str(where / "two"), "--workers", "2"),
        }
        measured = []
        for _ in range(given.rounds):
            for out in ("one", "two"):
                shutil.rmtree(where / out, ignore_errors=True)
            measured.append([run(*words) for words in sides.values()])
        times = np.array(measured)
        truth = rows(where / "s.csv")
        same = [rows(where / out) == truth for out in ("one", "two")]
        before = killed(where / "three", *common, "--out", str(where / "three"))
        run("bulk", *common, "--out", str(where / "three"))
        same.append(rows(where / "three") == truth)
    for place, label in enumerate(sides):
        clock, memory = np.median(times[:, place], axis=0)
        ratio = np.median(times[:, 0, 0] / times[:, place, 0])
        print(f"{label:16} {clock:6.1f} s, {given.count / clock:7,.0f} images/s, {memory:5.0f} MB, "
              f"{ratio:.2f} times score's speed (n = {given.rounds})")  # fmt: skip
    print(f"killed after {before} of {given.count} rows and run again")
    print(f"the same p-values as score: one, two workers, killed: {same}")


if __name__ == "__main__":
    main()
