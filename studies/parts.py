"""One part of a study from its settings to its outputs, and what became of it."""

import hashlib
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import chdir, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sslood.core.errors import InputError
from sslood.core.files import load_json, save_json, save_text
from sslood.core.settings import load_params
from studies.origin import has_cuda
from studies.plan import Part, Study
from studies.runner import PartRunner, Store, check_budget
from studies.sets import UNOBTAINABLE, absence, reason_of, set_of
from studies.workspace import lay_out, params_text
from tools.closure import ROOT
from tools.graph import Cell, cells, digest, needed, order
from tools.jobs import status_of

OUTPUT = "output.txt"  # of a command
LOG = "command.log"  # of one that runs
STATE = "state.json"  # beside params.yaml
BROUGHT = "brought.json"  # the same, of a part whose results --unpack has put in their place
Say = Callable[[str], object]


@dataclass
class Outcome:
    """What became of a part in this call.

    state: done, unfinished (time ran out), failed, or left out (`reason` says why). made, total: stages.
    absent: sets that could not be had, with reasons. failed: stages, with the end of their output. keys: of
    the stages in the record. mark: of the params and the code. tiny: by --tiny.
    """

    name: str
    state: str = "unfinished"
    reason: str = ""
    made: int = 0
    total: int = 0
    absent: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    mark: str = ""
    tiny: bool = False


class Call:
    """One call of a study: its folder, its store, its time."""

    def __init__(
        self,
        study: Study,
        folder: Path,
        jobs: int,
        store: Store,
        budget: float,
        say: Say,
        began: float | None = None,
    ):
        """budget: seconds from `began` on, a time of the monotonic clock; None = now."""
        self.study, self.folder, self.jobs, self.store, self.say = study, folder, jobs, store, say
        self.budget, self.end = budget, (began or time.monotonic()) + budget
        self.lost = dict[str, str]()  # downloads that failed in this call, which are not tried again

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def run(self, part: Part) -> Outcome:
        """Make what is not made of a part, as far as time allows; what became of it is kept in its folder."""
        outcome = Outcome(part.name, tiny=self.study.is_tiny)
        place = self.folder / part.name
        place.mkdir(parents=True, exist_ok=True)
        # until it ends: its folder may hold new params beside numbers of an earlier call
        save_json(place / STATE, asdict(outcome))
        if part.device == "cuda" and not has_cuda():
            outcome.state, outcome.reason = "left out", "no CUDA device here"
        elif part.command:
            self._command(part, place, outcome)
        elif all(self._prepare(part, place / path, words, outcome) for path, words in part.prepare.items()):
            self._stages(part, place, outcome)
        save_json(place / STATE, asdict(outcome))
        return outcome

    def _prepare(self, part: Part, path: Path, command: str, outcome: Outcome) -> bool:
        """Make what a part's stages read, if it is missing; return whether it is there."""
        if path.exists():
            return True
        log = self.folder / part.name / LOG
        path.parent.mkdir(parents=True, exist_ok=True)
        self.say(f"start {part.name}: {command}")
        status = status_of(_words(command, path=str(path)), log, ROOT, max(self.left, 1.0))
        if status is None:
            self.say(f"cut off {part.name}: {command}")
        elif status or not path.exists():
            outcome.state, outcome.total = "failed", 1
            why = _last(log.read_text(errors="replace")) if status else "it ended well, but did not make it"
            outcome.failed = {f"{path.relative_to(self.folder)}": why or "its command printed nothing"}
            self.say(f"failed {part.name}: {why}")
        return path.exists()

    def _stages(self, part: Part, place: Path, outcome: Outcome) -> None:
        self.lay_out(part, place, {})
        with chdir(place):
            graph = graph_of()
            chosen = needed(graph, part.goals)
            downloads = [cell for cell in chosen if cell.name.startswith("download@")]
            tidy(graph)
            keys = {cell.name: digest(cell) for cell in downloads}
            wanted = [cell for cell in downloads if keys[cell.name] not in self.lost]
            cut = self._make(part, wanted, outcome)
            if cut:
                return
            # what else failed, for a full disk say, is tried again below, and fails the part
            gone = {name: reason for name, reason in outcome.failed.items() if UNOBTAINABLE in reason}
            self.lost |= {keys[name]: reason for name, reason in gone.items()}
            reasons = {
                set_of(cell): self.lost[keys[cell.name]] for cell in downloads if keys[cell.name] in self.lost
            }
            lost = absence(reasons, load_params(Path("params.yaml")), part.needs, chosen)
        outcome.absent, outcome.failed = lost.dropped, {}
        if lost.dropped:
            self.say(f"left out of {part.name}: {', '.join(lost.dropped)}, which cannot be had")
        if lost.reason:
            outcome.state, outcome.reason = "left out", lost.reason
            return
        if lost.dropped:
            self.lay_out(part, place, lost.dropped)
        params = hashlib.sha256((place / "params.yaml").read_bytes()).hexdigest()
        outcome.mark = f"{self.store.origin['revision']} {params}"
        if self._is_brought(place, outcome):
            self.say(f"current {part.name}: its results came with --unpack")
            return
        with chdir(place):
            graph = graph_of()
            tidy(graph)
            self._make(part, needed(graph, part.goals), outcome)

    def _is_brought(self, place: Path, outcome: Outcome) -> bool:
        """Whether the results of a part came from another machine, by this code and these params.

        Its evaluations would else run again in each call, before anything new. Fills in the outcome.
        """
        brought = {}
        with suppress(InputError):
            brought = load_json(place / BROUGHT)
        if brought.get("state") == "done" and brought.get("mark") == outcome.mark:
            outcome.state, outcome.keys = "done", brought["keys"]
            outcome.made = outcome.total = brought["total"]
            return True
        (place / BROUGHT).unlink(missing_ok=True)  # its results will be those of this machine
        return False

    def lay_out(self, part: Part, place: Path, without: Mapping[str, str]) -> None:
        """Make the folder of a part from the code and profiles as they were when the call began."""
        code = self.folder / "code"
        lay_out(place, code, params_text(self.study, part, without, code))

    def _make(self, part: Part, chosen: list[Cell], outcome: Outcome) -> list[str]:
        """Make cells of a part; fills in the outcome, and returns the names that time cut off."""
        check_budget(self.budget, part.least, _keys(chosen), self.store)
        runner = PartRunner(chosen, self.jobs, self.store, self.say)
        failed, cut = runner.run(self.left)
        unmade = {*failed, *cut, *(cell.name for cell in runner.waiting)}
        outcome.made, outcome.total = len(chosen) - len(unmade), len(chosen)
        outcome.keys = _keys(chosen)
        outcome.failed = {cell.name: reason_of(cell) for cell in chosen if cell.name in failed}
        outcome.state = "unfinished" if cut else "failed" if failed else "done"
        return cut

    def _command(self, part: Part, place: Path, outcome: Outcome) -> None:
        """Run a command in the repository, once for each revision of it; its output is the result.

        Raises InputError if an earlier call gave it all that this one has, in vain.
        """
        outcome.total = 1
        key = f"{part.command} | {self.store.of_commands['revision']}"
        found = self.store.record.get(key, {})
        outcome.keys = [key]
        if found.get("ended") and (place / OUTPUT).is_file():
            outcome.state, outcome.made = "done", 1
            self.say(f"current {part.name}")
            return
        check_budget(self.budget, part.least, [key], self.store)
        if self.left < part.least:
            return
        (place / BROUGHT).unlink(missing_ok=True)
        self.say(f"start {part.name}: {part.command}")
        start, log = time.monotonic(), place / LOG
        status = status_of(_words(part.command), log, ROOT, max(self.left, 1.0))
        seconds = time.monotonic() - start
        if status is None:
            self.store.note(key, part.name, seconds, 0, ended=False, kept=False, command=True)
            self.say(f"cut off {part.name}: a command has no checkpoint, so it begins again")
            return
        text = log.read_text(errors="replace")
        save_text(place / OUTPUT, text)
        self.store.note(key, part.name, seconds, 0, ended=status == 0, command=True)
        word = "failed" if status else "done"
        outcome.state, outcome.made = word, int(not status)
        if status:
            outcome.failed = {part.name: _last(text) or "it printed nothing"}
        self.say(f"{word} {part.name} ({seconds:.0f} s): {_last(text)}")


def _words(command: str, **filled: str) -> list[str]:
    """Return the words of a command; `python` is that of this process, {NAME} stands for filled[NAME]."""
    words = [filled.get(word.strip("{}"), word) if word[:1] == "{" else word for word in shlex.split(command)]
    return [sys.executable, *words[1:]] if words[0] == "python" else words


def _last(text: str) -> str:
    """Return the last line that says something."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def _keys(chosen: list[Cell]) -> list[str]:
    """Return the keys in the record of the cells whose inputs are there."""
    return [digest(cell) for cell in chosen if all(Path(dep).exists() for dep in cell.deps)]


def tidy(graph: list[Cell]) -> None:
    """Remove files below data/ that no stage makes: a stage that reads a folder would see them."""
    outs = [Path(out) for cell in graph for out in cell.outs]
    for file in [path for path in Path("data").rglob("*") if path.is_file()]:
        if not any(file == out or out in file.parents for out in outs):
            file.unlink()


def graph_of() -> list[Cell]:
    """Return the cells of the graph in the current folder, each after what it needs."""
    return order(cells(load_params(Path("dvc.yaml")), load_params(Path("params.yaml"))))
