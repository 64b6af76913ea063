"""The stages of a part, run without DVC: what an earlier part made is taken from there, times are recorded.

`FOLDER/record.json` holds {digest of a stage and its inputs: {stage, seconds, threads, revision, hardware}};
the seconds of attempts that time cut off count too, those of a stage that had ended before do not.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sslood.core.errors import InputError
from sslood.core.files import load_json, save_json
from sslood.report.published_tables import FILES as PUBLISHED
from tools.direct import Direct
from tools.graph import Cell, digest
from tools.jobs import Job, cores

GRAIN = 0.01  # seconds by which the times of a file system may be coarse
KEPT = ("*.pt", "pretrained/*.csv", "sweeps/*.json")  # checkpoints, encoders, cells of a sweep
LOOSE = {"summarize": [f"metrics/{name}" for name in PUBLISHED]}  # files of some params only, so no outs
OVERHEAD = 1.05  # budget of a call over what its first stage gets of it, at most


class Store:
    """Outputs of stages by the digest of all they come from, kept beside the folders of the parts."""

    def __init__(self, folder: Path, origin: dict[str, str], commands: str | None = None):
        """folder: the study's; origin: {revision, hardware} of this call, recorded with each stage.

        commands: the revision of what commands run, if it is another.
        """
        self.made, self.file = folder.absolute() / "made", folder.absolute() / "record.json"
        self.origin, self.record = origin, dict[str, dict[str, Any]]()
        self.of_commands = origin | {"revision": commands or origin["revision"]}
        with suppress(InputError):
            self.record = load_json(self.file)

    def note(
        self,
        key: str,
        stage: str,
        seconds: float,
        threads: int,
        *,
        ended: bool,
        kept: bool = True,
        command: bool = False,
    ) -> None:
        """Add an attempt: its seconds, whether it ended, and if not whether it kept a checkpoint."""
        found = self.record.setdefault(key, {"stage": stage, "seconds": 0.0, "ended": False})
        found["seconds"] = round(seconds if found["ended"] else found["seconds"] + seconds, 1)
        found |= {"ended": ended, "threads": threads, **(self.of_commands if command else self.origin)}
        found.pop("lost", None)
        if not ended and not kept:
            found["lost"] = round(seconds, 1)
        save_json(self.file, self.record)

    def put(self, key: str, outs: Sequence[str], loose: Sequence[str] = ()) -> None:
        """Keep the outputs of a stage that ended, as links; loose: files that it may have made too."""
        folder, fresh = self.made / key, self.made / f"{key}.part"
        shutil.rmtree(fresh, ignore_errors=True)
        for out in [*outs, *(out for out in loose if Path(out).exists())]:
            _link(Path(out), fresh / out)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)

    def adopt(self, old: str, new: str, outs: Sequence[str]) -> bool:
        """Keep what is kept of one digest as that of another too, with its record; return whether it is."""
        if old not in self.record or not all((self.made / old / out).exists() for out in outs):
            return False
        shutil.rmtree(self.made / new, ignore_errors=True)
        _link(self.made / old, self.made / new)
        self.record[new] = dict(self.record[old])
        save_json(self.file, self.record)
        return True

    def take(self, key: str, outs: Sequence[str], loose: Sequence[str] = ()) -> bool:
        """Put the outputs of a stage where they belong, if they are kept; return whether they are."""
        folder = self.made / key
        if not outs or not all((folder / out).exists() for out in outs):
            return False
        for out in [*outs, *loose]:
            path = Path(out)
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            if (folder / out).exists():
                _link(folder / out, path)
        return True


def _link(source: Path, target: Path) -> None:
    """Make `target` a hard link of a file, or a folder of such links; copies where the disk has none.

    Stages write a new file and rename it, so a link is never written through.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir()
        for path in sorted(source.iterdir()):
            _link(path, target / path.name)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class PartRunner(Direct):
    """Runs the cells of one part in the current folder."""

    def __init__(self, chosen: Sequence[Cell], jobs: int, store: Store, say: Callable[[str], object]):
        super().__init__(chosen, jobs, say)
        self.store, self.since = store, dict[str, float]()

    def current(self, cell: Cell) -> bool:
        """Whether a cell is up to date here, or can be taken from another part."""
        if super().current(cell):
            return True
        key = digest(cell)
        if not self.store.take(key, cell.outs, LOOSE.get(cell.name, ())):
            return False
        self.remember(cell, key)
        return True

    def passed(self, cell: Cell) -> None:
        """Say nothing: in a later call that is most of a part."""

    def starting(self, cell: Cell) -> None:
        super().starting(cell)
        self.since[cell.name] = time.time()

    def finished(self, job: Job) -> str:
        word = super().finished(job)
        key = self.done[job.cell.name]
        self.store.note(key, job.cell.name, time.monotonic() - job.start, self._threads(), ended=True)
        self.store.put(key, job.cell.outs, LOOSE.get(job.cell.name, ()))
        return word

    def run(self, budget: float = float("inf")) -> tuple[list[str], list[str]]:
        """Run as `Runner.run` does, and record the time of what was cut off too."""
        try:
            return super().run(budget)
        finally:
            for job in self.running:
                key, kept = self.begun[job.cell.name], _kept_since(self.since[job.cell.name])
                self.store.note(
                    key, job.cell.name, time.monotonic() - job.start, self._threads(), ended=False, kept=kept
                )

    def _threads(self) -> int:
        """Return how many threads a stage has."""
        given = {**os.environ, **self.threads}
        outer = given.get("OMP_NUM_THREADS", "").partition(",")[0]  # of nested regions each has its number
        return int(given.get("SSLOOD_THREADS") or outer or cores())


def _kept_since(since: float) -> bool:
    """Whether anything from which a stage goes on was written in the scratch folder since that time."""
    folder = Path(os.environ.get("SSLOOD_SCRATCH") or "scratch")
    return any(path.stat().st_mtime > since - GRAIN for kind in KEPT for path in folder.glob(kind))


def check_budget(budget: float, least: float, keys: Iterable[str], store: Store) -> None:
    """Raise InputError, saying how much is needed, if `budget` seconds would never bring a study to an end.

    That is less than its longest stage without checkpoints takes, or no more than what one of `keys` in the
    record, of stages or commands, had in an earlier call without an end or a checkpoint.
    """
    if budget < least:
        raise InputError(
            f"--budget {budget:g} is too small: a stage that keeps no checkpoint needs {least:g} seconds; "
            f"say at least --budget {least:g}"
        )
    for found in (store.record[key] for key in keys if key in store.record):
        if budget <= OVERHEAD * found.get("lost", -1.0):
            raise InputError(
                f"--budget {budget:g} is too small: {found['stage']} had {found['lost']:g} seconds in an "
                "earlier call and came to no end and no checkpoint; give clearly more, such as --budget "
                f"{2 * budget:g}"
            )
