"""Arrays of Matlab files, read in a process of their own: a damaged file can crash the library."""

import os
import resource
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from sslood.core.errors import InputError, as_line

TOP = Path(__file__).resolve().parents[3]
MEMORY, MEMORY_PER_BYTE = 700 << 20, 10  # bytes of address space, and on top for each byte of the file
SECONDS, BYTES_PER_SECOND = 5, 10_000_000  # of the processor


def read_matlab(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Return arrays of whole numbers of a Matlab file by name; InputError if it has no such arrays."""
    command = [sys.executable, "-m", "sslood.data.sets.matlab", os.path.abspath(path), *names]
    few = {
        f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")
    }  # each takes address space
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
        status = subprocess.run(command, stdout=out, stderr=said, cwd=TOP, env=os.environ | few).returncode
        said.seek(0)
        reason = said.read(4096).decode(errors="replace").strip().rpartition("\n")[2]
        if status:
            reason = reason if status > 0 else f"reading it ends with signal {-status}"
            raise InputError(f"{path}: not the set's Matlab file ({as_line(reason)}); fetch it again")
        out.seek(0)
        return {name: np.load(out, allow_pickle=False) for name in names}


def _whole(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(((array == np.rint(array)) & (abs(array) < 2**53)).all())


def main() -> None:
    """Write the arrays of a file to the standard output one by one, or say on one line what is wrong."""
    path, *names = sys.argv[1:]
    size = os.path.getsize(path)
    room, seconds = MEMORY + MEMORY_PER_BYTE * size, SECONDS + size // BYTES_PER_SECOND
    limits = {resource.RLIMIT_AS: room, resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0}
    for kind, limit in limits.items():
        with suppress(ValueError, OSError):  # it is lower already, or unknown to this system
            resource.setrlimit(kind, (limit, limit))
    try:
        from scipy.io import loadmat  # not above: it takes a tenth of a second

        content = loadmat(path, variable_names=names)
        for name in names:
            if content[name].dtype.kind not in "biuf" or not _whole(content[name]):
                raise TypeError(f"{name} does not hold whole numbers")
        for name in names:
            np.save(sys.stdout.buffer, content[name], allow_pickle=False)
            sys.stdout.flush()
    except Exception as error:  # a damaged file makes the library raise whatever comes
        sys.exit(f"{type(error).__name__}: {as_line(error)}")


if __name__ == "__main__":
    main()
