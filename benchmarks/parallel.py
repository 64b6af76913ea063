"""Stages side by side: the trainings of the quickstart by `make repro J=2` and by `dvc repro`.

    python -m benchmarks.parallel              three rounds, alternating; half an hour on two cores
    python -m benchmarks.parallel --rounds 1

Each run starts in a clean clone of the last commit, with the image sets made (not counted) and no training in
the cache. Every stage has one thread in both ways. The two dvc.lock must be equal, to the byte.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from tools.closure import ROOT

TRAININGS = ("pretrain", "train", "energy", "leaveout")
BEFORE = ("download", "audit")
WAYS = {
    "dvc repro": ("dvc", "repro", *TRAININGS),
    "J=2": ("tools.parallel", "-j", "2", *TRAININGS),
}


def run(folder: Path, *words: str) -> float:
    """Run a module in `folder`; return the seconds that it took."""
    one = {"OMP_NUM_THREADS": "1", "SSLOOD_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "DVC_SITE_CACHE_DIR": f"{folder.parent}/site", "DVC_NO_ANALYTICS": "1"}
    environment = {**os.environ, **one, **own}
    command = [sys.executable, "-m", *words]
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - begin


@click.command()
@click.option("--rounds", default=3, type=click.IntRange(1), help="Runs of each way.")
def main(rounds: int = 3) -> None:
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="parallel-") as work:
        start = Path(work) / "start"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(start)], check=True)
        run(start, "dvc", "repro", *BEFORE)
        for number in range(rounds):
            locks = []
            for way, words in list(WAYS.items())[:: 1 if number % 2 == 0 else -1]:
                shutil.copytree(start, clone := Path(work) / "clone", symlinks=True)
                took[way].append(run(clone, *words))
                locks.append((clone / "dvc.lock").read_bytes())
                shutil.rmtree(clone)
                print(f"round {number + 1}, {way}: {took[way][-1]:.0f} s", flush=True)
            if locks[0] != locks[1]:
                raise SystemExit("the two ways left different dvc.lock")
    ratios = [a / b for a, b in zip(*took.values(), strict=True)]
    medians = ", ".join(f"{way} {statistics.median(values):.0f} s" for way, values in took.items())
    print(
        f"{medians}: {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f}, "
        f"n = {rounds}), equal dvc.lock"
    )


if __name__ == "__main__":
    main()
