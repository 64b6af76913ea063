"""Set files: how fast they are made and opened, and how much memory that takes.

    SSLOOD_DATA_MIRROR=/data/mirror python -m benchmarks.sets

Opening for training against reading the whole file (safetensors' own loader); CIFAR-10 from the mirror to the
final file, if there is a mirror; a folder of 100,000 JPEG of 64 px to the final file. Memory is the
largest sum over all processes of the command (proportional set size, so shared pages count once).
Takes about two minutes on two cores, and 500 MB of disk.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import yaml
from safetensors.numpy import load_file

from benchmarks.folder import COUNT, make
from sslood.core.files import load_tensors

MANY, ROUNDS = 100_000, 5
SETTINGS = "--channels 3 --size 32 --validation 0.1 --count 8 --limit 0 --seed 0 --test 0.3".split()


def watched(command: list[str]) -> tuple[float, float]:
    """Run a command; return (seconds, peak memory in MB over it and the processes that it starts)."""
    begin, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as run:
        while run.poll() is None:
            peak = max(peak, sum(map(_memory, [run.pid, *_below(run.pid)])))
            time.sleep(0.02)
    if run.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return time.perf_counter() - begin, peak / 1e6


def _below(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _memory(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_full_info().pss
    except (psutil.Error, ProcessLookupError):
        return 0


def report(label: str, out: Path, name: str, entry: dict[str, str]) -> None:
    """Run the stage on an entry of `sets`, beside CIFAR-10 as the ID set, and print time, size and memory."""
    params = out.with_suffix(".yaml")
    params.write_text(yaml.safe_dump({"cifar10": {"role": "id", "source": "cifar10"}, name: entry}))
    words = f"--set {name} --item {params}:{name} --id cifar10 --id_item {params}:cifar10 --out {out}".split()
    seconds, peak = watched([sys.executable, "-m", "stages.download", *words, *SETTINGS])
    size = out.stat().st_size / 1e6
    allowed = 2 * size + 500
    print(f"{label}: {seconds:.1f} s, file {size:.0f} MB, peak {peak:.0f} MB (allowed {allowed:.0f} MB)")


def opening(file: Path) -> None:
    """Print the time to open a set file and to read it whole, and what opening takes of memory."""
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for spent, read in zip(times, (load_tensors, load_file), strict=True):
            begin = time.perf_counter()
            read(file)
            spent.append(1000 * (time.perf_counter() - begin))
    here = psutil.Process()
    before = here.memory_full_info().uss
    tensors, _ = load_tensors(file)
    grown = (here.memory_full_info().uss - before) / 1e6
    mapped = all(isinstance(_root(array), np.memmap) for array in tensors.values())
    print(
        f"opening {file.stat().st_size / 1e6:.0f} MB: median {np.median(times[0]):.2f} ms, {grown:.1f} MB "
        f"more memory, {'mapped' if mapped else 'COPIED'}; reading it whole: {np.median(times[1]):.0f} ms"
    )


def _root(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name), Path(name) / "out.safetensors"
        if os.environ.get("SSLOOD_DATA_MIRROR"):
            cifar10 = {"role": "id", "source": "cifar10"}
            report("CIFAR-10 from the mirror", out, "cifar10", cifar10)
        else:
            print("CIFAR-10: not measured, SSLOOD_DATA_MIRROR names no mirror")
        make(folder / "few")
        (folder / "many").mkdir()
        for number, path in enumerate(sorted((folder / "few").rglob("*.jpg")) * (MANY // COUNT)):
            os.link(path, folder / "many" / f"{number:06}.jpg")
        mine = {"role": "far", "source": "folder", "folder": str(folder / "many")}
        report(f"{MANY} JPEG", out, "mine", mine)
        opening(out)


if __name__ == "__main__":
    main()
