"""Check the promise of the README: the same dvc.lock and the same metrics/ on every CPU.

    python -m tools.same          compare this checkout, after `make repro`, with the committed results
    python -m tools.same --run    run the graph in a clean clone, as another machine would, and compare

The other machine has generic kernels in torch, oneDNN, MKL, OpenBLAS, numpy and the C library, one thread,
and an empty cache. The message names the stages where results begin to differ: those with equal inputs and
other outputs. Minutes; continuous integration runs both.
"""

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import yaml

from sslood.cli.command import Command
from sslood.core.errors import InputError

SHOWN = 10  # stages that a message lists


def other_machine() -> dict[str, str]:
    """Return the environment variables that make this CPU compute like a plain one, with one thread."""
    plain = {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default", "OMP_WAIT_POLICY": "PASSIVE"}
    if platform.machine() in ("x86_64", "AMD64"):
        plain |= {
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_CBWR": "COMPATIBLE",
            "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
            "OPENBLAS_CORETYPE": "Nehalem",
            "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX2_Usable,-FMA_Usable",
        }
    core: Any = np._core._multiarray_umath  # type: ignore[attr-defined]  # not public
    used = [name for name in core.__cpu_dispatch__ if core.__cpu_features__.get(name)]
    return plain | ({"NPY_DISABLE_CPU_FEATURES": " ".join(used)} if used else {})


def hashes(stage: Mapping[str, Any], key: str) -> dict[str, str]:
    """Return {path: md5} of the "deps" or "outs" of a stage of dvc.lock."""
    return {entry["path"]: entry["md5"] for entry in stage.get(key, [])}


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return a line per stage whose results differ though its inputs do not, and one that counts the rest.

    ours, theirs: the stages of two lock files.
    """
    roots, follow = [], 0
    for name in sorted({*ours, *theirs}):
        if name not in ours or name not in theirs:
            roots.append(f"{name}: in one lock file only")
            continue
        outs, others = hashes(ours[name], "outs"), hashes(theirs[name], "outs")
        changed = sorted(path for path in {*outs, *others} if outs.get(path) != others.get(path))
        if hashes(ours[name], "deps") != hashes(theirs[name], "deps"):
            follow += bool(changed)
        elif changed:
            roots.append(f"{name}: {', '.join(changed)}")
    more = [f"and {len(roots) - SHOWN} more such stages"] if len(roots) > SHOWN else []
    return roots[:SHOWN] + more + ([f"{follow} stages follow from these"] if follow else [])


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"`git {arguments[0]}` failed: {done.stderr.strip()}")
    return done.stdout


def compare(folder: Path, committed: Path) -> str:
    """Return a sentence that says the results in `folder` are those committed in a repository.

    Raises InputError that names the stages and the files which differ.
    """
    before = yaml.safe_load(_git(committed, "show", "HEAD:dvc.lock"))["stages"]
    after = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    lines = differences(before, after)
    files = _git(folder, "status", "--porcelain", "--", "dvc.lock", "metrics").splitlines()
    if lines or files:
        listed = "\n".join(f"  {line}" for line in [*lines, *files])
        raise InputError(f"results differ from the committed ones, first in:\n{listed}")
    return f"The same dvc.lock and metrics/ as committed: {len(after)} stages."


def elsewhere(work: Path) -> dict[str, str]:
    """Return the environment of a run below `work`: this one's, but for machine settings and kernels."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SSLOOD_") or name.startswith("SSLOOD_DATA_")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**own, **other_machine(), "PATH": path, "DVC_SITE_CACHE_DIR": f"{work}/site"}


def run_elsewhere(root: Path) -> str:
    """Run the graph in a clean clone of `root` as another machine would; return `compare`'s sentence."""
    words = " ".join(f"{key}={value}" for key, value in other_machine().items())
    click.echo(f"Running the whole graph under {words}")
    with tempfile.TemporaryDirectory(prefix="elsewhere-") as work:
        clone = Path(work) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True)
        done = subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=clone, env=elsewhere(Path(work)))
        if done.returncode:
            raise InputError("`dvc repro` failed there, see above")
        return compare(clone, root)


@click.command(cls=Command)
@click.option("--run", is_flag=True, help="Run the graph elsewhere first.")
def main(run: bool) -> None:
    root = Path.cwd()
    click.echo(run_elsewhere(root) if run else compare(root, root))


if __name__ == "__main__":
    main()
