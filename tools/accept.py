"""Record refactored code in dvc.lock without running the stages again, after a check of what that accepts.

    make accept                  every stage whose code changed
    make accept S="train ssd"    these stages only
    make accept YES=1            without the question, for scripts

DVC runs a stage again when a file of its rooms changes, and it cannot know that an edit was a new name or a
clearer sentence. Accepting is allowed where code is all that changed: it is refused if a command, a value of
the params or an input changed, if an output is missing or modified, or if a stage has never run. Nothing is
written then, and the exit status is 1.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from sslood.cli.command import Command
from sslood.core.errors import InputError
from tools.closure import is_code

SHOWN = 12  # reasons that a message lists
HONEST = """\
Accepting is honest only for edits that cannot change a result: a new name, a moved function, a docstring, a
type, an error message, the same computation written differently. dvc.lock will then claim that the new code
wrote the outputs that the old code wrote. If a number could differ, or you are not sure, let `dvc repro` run
the stages: where the outputs come out equal, nothing downstream runs and nothing is lost but the time."""


@dataclass
class Check:
    """What `dvc status` says, sorted: code to accept for each stage, and reasons to refuse."""

    code: dict[str, list[str]] = field(default_factory=dict)  # stage -> its changed code deps
    reasons: list[str] = field(default_factory=list)


def check(status: Mapping[str, Sequence[Any]]) -> Check:
    """Sort the output of `dvc status --json`, {stage: [what changed, ...]}."""
    result = Check()
    for stage, changes in status.items():
        for change in changes:
            if isinstance(change, str):
                result.reasons.append(f"{stage}: {change}")
                continue
            for kind, entries in change.items():
                for path, what in entries.items():
                    if kind == "changed deps" and _is_edited_code(path, what):
                        result.code.setdefault(stage, []).append(path)
                    else:
                        result.reasons.append(f"{stage}: {_reason(kind, path, what)}")
    return result


def _is_edited_code(path: str, what: Any) -> bool:
    return (is_code(path) or path.split("/")[0] == "architectures") and what in ("modified", "new")


def _reason(kind: str, path: str, what: Any) -> str:
    if isinstance(what, Mapping):  # params.yaml: {key: modified}
        return f"{path}: {', '.join(f'{key} is {state}' for key, state in what.items())}"
    return f"{'output' if kind == 'changed outs' else 'input'} {path} is {what}"


def _output(root: Path, *command: str) -> str:
    """Return what a command prints; InputError with its last words if it fails."""
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no reason given"]
        raise InputError(f"`{' '.join(command[:3])}` failed: {words[-1]}")
    return done.stdout


def dvc_status(root: Path, stages: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Return {stage: [what changed, ...]} of all stages, or of the named ones."""
    return json.loads(_output(root, sys.executable, "-m", "dvc", "status", "--json", *stages))


def changed_files(root: Path, paths: Sequence[str]) -> str:
    """Return `git diff --stat` of paths since dvc.lock was last committed, and their untracked files."""
    base = _output(root, "git", "log", "-1", "--format=%H", "--", "dvc.lock").strip()
    if not base:
        raise InputError("dvc.lock has never been committed; commit the results before you accept new code")
    stat = _output(root, "git", "diff", "--stat=100", base, "--", *paths).rstrip()
    fresh = _output(root, "git", "ls-files", "--others", "--exclude-standard", "--", *paths).split("\n")
    lines = [stat] if stat else []
    lines += [f" {name} | not tracked by git" for name in fresh if name]
    return "\n".join(lines) or " no difference: dvc.lock was committed with other results than this code's"


def describe(root: Path, code: Mapping[str, Sequence[str]]) -> str:
    """Return which files changed for which stages; stages that share their changes share a paragraph."""
    shared: dict[tuple[str, ...], list[str]] = {}
    for stage, paths in code.items():
        shared.setdefault(tuple(sorted(paths)), []).append(stage)
    return "\n\n".join(
        f"{', '.join(stages)}:\n{changed_files(root, paths)}" for paths, stages in shared.items()
    )


def accept(root: Path, stages: Sequence[str] = (), yes: bool = False) -> str:
    """Record the code of the stages that changed in nothing else; return a sentence that says what was done.

    Raises InputError if anything but code changed, or if the answer is no.
    """
    found = check(dvc_status(root, stages))
    if found.reasons:
        more = [f"and {len(found.reasons) - SHOWN} more"] if len(found.reasons) > SHOWN else []
        listed = "\n".join(f"  {reason}" for reason in [*found.reasons[:SHOWN], *more])
        raise InputError(
            "more than code changed, so nothing is accepted; outputs must be there before you edit, and "
            f"`dvc repro` runs what is out of date:\n{listed}"
        )
    if not found.code:
        return "Nothing to accept: every stage is up to date."
    click.echo(
        f"Code changed since dvc.lock was last committed:\n\n{describe(root, found.code)}\n\n{HONEST}\n"
    )
    if _output(root, "git", "status", "--porcelain", "--", "dvc.lock").strip():
        click.echo("dvc.lock itself has changes that are not committed; the diff above may show too much.\n")
    if not yes:
        if not sys.stdin.isatty():
            raise InputError("no terminal to ask on; say `make accept YES=1` after reading the list above")
        if not click.confirm(f"Accept this code for {len(found.code)} stage(s)?"):
            raise InputError("nothing was accepted")
    _output(root, sys.executable, "-m", "dvc", "commit", "--force", *found.code)
    return f"Accepted the code of {len(found.code)} stage(s). Commit dvc.lock together with the code."


@click.command(cls=Command)
@click.argument("stages", nargs=-1)
@click.option("--yes", is_flag=True, help="Do not ask. YES=1 in the environment does the same.")
def main(stages: tuple[str, ...], yes: bool) -> None:
    click.echo(accept(Path.cwd(), stages, yes or os.environ.get("YES") == "1"))


if __name__ == "__main__":
    main()
