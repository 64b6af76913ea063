"""The command classes of all scripts: help from the docstring, and one sentence for success or failure.

Nothing in this room can change a result, so no stage depends on it.
"""

import errno
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from sslood.cli.params import check_params
from sslood.cli.sections import FROM, expanded, fill
from sslood.core.errors import InputError, out_of_memory
from sslood.core.names import shown
from sslood.core.renamed import renamed

PATIENCE = 3.0  # seconds within which the processes of one run fail
CHECK = "--check"
_SAY = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EFBIG: "the file grew beyond the limit of the file system or of `ulimit -f`",
    errno.EROFS: "the file system is read-only; choose a place that can be written to",
    errno.ENAMETOOLONG: "a name that is longer than the file system allows; choose a shorter one",
    errno.EIO: "the device failed to read or write; look at the disk, or at the connection to it",
    errno.EMFILE: "too many open files; raise `ulimit -n`, or let fewer processes run",
    errno.EACCES: "permission denied; check who owns it",
    errno.EEXIST: "is a file, but a folder is needed; move it or choose another path",
    errno.ENOTDIR: "is a file, but a folder is needed; move it or choose another path",
    errno.EISDIR: "is a folder, but a file is needed; move it or choose another path",
}
AGAIN = "run the same command again to go on"
ANEW = "run the same command again; it starts over"  # of commands that keep nothing to go on from
INTERRUPTED = f"interrupted; {AGAIN}"
LOST = f"another process of this run ended; {AGAIN}"


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM; unwinds like Ctrl-C, so checkpoints are saved and temporary files removed."""


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    """End at once: Ctrl-C while a script imports, when there is nothing to save and no one to catch it."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"Error: {INTERRUPTED}\n".encode())
    os._exit(130)


def wait_asleep() -> None:
    """Let OpenMP's threads sleep, not spin, as they wait, unless the user says how; call it before torch.

    On a machine that others use too, spinning costs more than it saves (docs/machine.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def prepare() -> None:
    """Do for a script what has to happen before it imports torch; nothing where the script is not ours."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name.partition(".")[0] in ("stages", "sslood"):
        wait_asleep()
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)


prepare()


def _place(error: OSError) -> str:
    """Return the path that an error concerns: a rename's target, or the file that stands in a path's way."""
    path = Path(error.filename2 or error.filename or "writing")
    if error.errno == errno.ENOTDIR:
        path = next((above for above in path.parents if above.is_file()), path)
    return str(path)


def _lost(error: BaseException) -> bool:
    """Whether an error of torch.distributed, recognised by its text, says that another process is gone."""
    texts = ("Connection closed by peer", "Connection reset by peer", "gloo/transport", "NCCL")
    return any(text in str(error) for text in texts)


def _report(message: str, status: int) -> None:
    """Report why the script ended; of several processes only one does.

    Only rank 0 reports a failure that all ranks share. Other ranks wait PATIENCE seconds, during which
    torchrun usually ends them. A rank that lost another one waits too: the lost rank has reported already.
    """
    if os.environ.get("RANK", "0") != "0" or message == LOST:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(PATIENCE)
    if "WORLD_SIZE" not in os.environ or status not in (130, 143):
        click.echo("\n  ".join(map(shown, f"Error: {message}".split("\n  "))), err=True)


def done(path: str | Path, text: str) -> None:
    """Print the last line of a script: what it wrote, and what is in it."""
    click.echo(shown(f"Wrote {path}: {text}."))


def as_help(docstring: str) -> str:
    """Return a docstring as click's help: paragraphs with indented lines or lists keep their lines."""
    paragraphs = docstring.strip().split("\n\n")
    return "\n\n".join(
        f"\b\n{text}" if re.search(r"^(\s|[-*] )", text, re.MULTILINE) else text for text in paragraphs
    )


class Command(click.Command):
    """A command whose help is the docstring of its module, and which fails with one sentence.

    Exit status: 2 wrong options, 1 wrong input or disk, 130 Ctrl-C, 143 SIGTERM.
    Set SSLOOD_DEBUG=1 to see the traceback instead.
    """

    hint = ""  # what a message about a wrong option ends with

    def __init__(
        self, *args: Any, formerly: Mapping[str, str] | None = None, again: str = AGAIN, **kwargs: Any
    ):
        """formerly: options that were renamed or removed, name -> what to write now; for messages.

        again: what to do after Ctrl-C or SIGTERM.
        """
        super().__init__(*args, **kwargs)
        self.formerly, self.again = dict(formerly or {}), again
        module = sys.modules.get(getattr(self.callback, "__module__", ""))
        if module is not None and module.__doc__:
            self.help = as_help(module.__doc__)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        return run_to_exit(self, super().main, args, kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            if "WORLD_SIZE" not in os.environ:
                stop.add_note(self.again)  # read where this command may be one of a group
                raise
            raise click.Abort from stop  # for others click writes an empty line, and only one process speaks

    def usage_message(self, error: click.UsageError) -> str:
        """Return the sentence for a wrong option."""
        option = (getattr(error, "option_name", None) or "").removeprefix("--")
        now = self.now(option) or self.now(option.removeprefix("no-"))
        return f"--{option} is gone: {now}{self.hint}" if now else f"{error.format_message()}{self.hint}"

    def now(self, option: str) -> str:
        """Return what to write instead of an option of an earlier version, or nothing."""
        return self.formerly.get(option, "")


class StageCommand(Command):
    """A command of dvc.yaml, whose options come from the params: from the section of its name, or the top."""

    hint = " (options come from the stage's section in params.yaml)"

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        name = _module_name(self.callback)
        if self.help and name.startswith("stages.") and "    python -m" not in self.help:
            name = name.removeprefix("stages.")
            self.help += f"\n\n\b\nExample, with the options that params.yaml gives:\n    dvc repro {name}"

        say = "FILE:KEY whose keys, or whose value, become options; may be repeated."
        check = "The params, checked as a whole before anything else."
        self.params.append(click.Option([CHECK], expose_value=False, help=check))
        self.params.append(click.Option([FROM], multiple=True, expose_value=False, help=say))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if CHECK in args[:-1]:  # without a value: click says so
            check_params(Path(args[args.index(CHECK) + 1]))
        words = expanded(self, args)
        rest = super().parse_args(ctx, list(words))
        fill(self, ctx.params, words)
        return rest

    def now(self, option: str) -> str:
        section = _module_name(self.callback).rpartition(".")[2]
        return super().now(option) or renamed(f"{section}.{option}") or renamed(option)


def _module_name(function: Any) -> str:
    """Return the dotted name of the module that defines a function, also where it runs as `python -m`."""
    module = sys.modules.get(getattr(function, "__module__", ""))
    spec = getattr(module, "__spec__", None)
    return spec.name if spec is not None else getattr(module, "__name__", "")


def run_to_exit(command: Any, main: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call click's `main` of a command, say in one sentence what failed, and exit with a status."""
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("SSLOOD_DEBUG") == "1":
        return main(*args, **kwargs)
    message, status = _outcome(command, main, args, kwargs)
    if message:
        _report(message, status)
    sys.stdout.flush()
    sys.exit(status)


def _outcome(command: Any, main: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, int]:
    """Return (sentence, exit status); ("", 0) if all went well. What is a bug keeps its traceback."""
    try:
        status = main(*args, **{**kwargs, "standalone_mode": False})
    except click.UsageError as error:
        source = error.ctx.command if error.ctx is not None else command
        say = getattr(source, "usage_message", None)
        return say(error) if say else error.format_message(), 2
    except click.ClickException as error:
        return error.format_message(), 1
    except InputError as error:
        return str(error), 1
    except OSError as error:
        if error.errno not in _SAY:
            raise
        return f"{_place(error)}: {_SAY[error.errno]}", 1
    except click.Abort as error:  # what click makes of a KeyboardInterrupt
        again = getattr(error.__cause__, "__notes__", [AGAIN])[0]
        if isinstance(error.__cause__, Terminated):
            return f"stopped by SIGTERM; {again}", 143
        return f"interrupted; {again}", 130
    except (RuntimeError, MemoryError) as error:  # after click.Abort, which is a RuntimeError
        if "WORLD_SIZE" in os.environ and _lost(error):
            return LOST, 1
        if not out_of_memory(error):
            raise
        return "out of memory; use smaller networks, images or batches, or a machine that has more", 1
    return "", status if isinstance(status, int) else 0
