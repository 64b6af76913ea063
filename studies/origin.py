"""Where results come from: the revision of the code and the hardware, in words."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from studies.workspace import CODE
from tools.closure import ROOT
from tools.jobs import cores


def revision(root: Path = ROOT, tracked: Sequence[str] = CODE) -> str:
    """Return the commit of the code, "+ changes" if what results depend on was edited since.

    Without git, a hash of these files.
    """
    ask = ["git", "-C", str(root), "rev-parse", "--short=10", "HEAD"]
    try:
        commit = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
        status = ["git", "-C", str(root), "status", "--porcelain", "--", *tracked]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"no commit, files {_digest(root, tracked)}"
    return f"{commit} + changes, files {_digest(root, tracked)}" if changed else commit


def _digest(root: Path, tracked: Sequence[str]) -> str:
    total = hashlib.sha256()
    for top in (root / name for name in tracked):
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                total.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return total.hexdigest()[:10]


def has_cuda() -> bool:
    """Whether stages would find a CUDA device."""
    return os.environ.get("SSLOOD_DEVICE", "auto").startswith(("auto", "cuda")) and torch.cuda.is_available()


def hardware() -> str:
    """Return the processor, the cores that may be used, the GPU, and torch's version; no host name."""
    parts = [f"{cores()} cores of {_processor()}"]
    if has_cuda():
        count = torch.cuda.device_count()
        parts.append(
            f"{count} x {torch.cuda.get_device_name(0)}" if count > 1 else torch.cuda.get_device_name(0)
        )
    parts.append(f"torch {torch.__version__}")
    return ", ".join(parts)


def _processor() -> str:
    """Return the processor's name, and whether it has units that matter for speed."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = " ".join(found.get("model name", platform.machine()).split())
    flags = set(found.get("flags", "").split())
    units = [word for flag, word in (("avx512f", "AVX-512"), ("avx512_bf16", "bfloat16")) if flag in flags]
    return f"{name} ({' and '.join(units) or 'no AVX-512 or bfloat16'} units)"
