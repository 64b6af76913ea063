"""Files of the last commit, whatever a run has left in the working tree."""

import subprocess

from tools.closure import ROOT


def committed(path: str) -> str:
    """Return the text of a file at HEAD."""
    command = ["git", "show", f"HEAD:{path}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=True, encoding="utf-8").stdout
