"""The command class of all scripts: it reports a failure in one sentence.

Nothing in this room can change a result, so no stage depends on it.
"""

import errno
import os
import signal
import sys
import time
from pathlib import Path

import click

from sslood.core.errors import InputError, out_of_memory
from sslood.core.renamed import renamed

PATIENCE = 3.0  # seconds within which the processes of one run fail
LOST = "another process of this run ended; run the same command again to go on"
_FROM_PARAMS = "options come from the stage's section in params.yaml"
_SAY = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EFBIG: "the file grew beyond the limit of the file system or of `ulimit -f`",
    errno.EROFS: "the file system is read-only; choose a place that can be written to",
    errno.EACCES: "permission denied; check who owns it",
    errno.EEXIST: "is a file, but a folder is needed; move it or choose another path",
    errno.ENOTDIR: "is a file, but a folder is needed; move it or choose another path",
    errno.EISDIR: "is a folder, but a file is needed; move it or choose another path",
}


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM; unwinds like Ctrl-C, so checkpoints are saved and temporary files removed."""


def _terminate(signum, frame):
    raise Terminated


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


def _tell(message: str, status: int) -> None:
    """Report why the script ended; of several processes only one does.

    Only rank 0 reports a failure that all ranks share. Other ranks wait PATIENCE seconds, during which
    torchrun usually ends them. A rank that lost another one waits too: the lost rank has reported already.
    """
    if os.environ.get("RANK", "0") != "0" or message == LOST:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(PATIENCE)
    if "WORLD_SIZE" not in os.environ or status not in (130, 143):
        click.echo(f"Error: {message}", err=True)


class StageCommand(click.Command):
    """A click command that ends with one sentence and a non-zero status on whatever a user can cause.

    Exit status: 2 wrong params or options, 1 wrong input or disk, 130 Ctrl-C, 143 SIGTERM.
    Set SSLOOD_DEBUG=1 to see the traceback instead.
    """

    def main(self, *args, **kwargs):
        signal.signal(signal.SIGTERM, _terminate)
        if os.environ.get("SSLOOD_DEBUG") == "1":
            return super().main(*args, **kwargs)
        message, status = self._run(*args, **kwargs)
        if status:
            _tell(message, status)
        sys.stdout.flush()
        sys.exit(status)

    def _run(self, *args, **kwargs) -> tuple[str, int]:
        try:
            super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.NoSuchOption as error:
            what = renamed(error.option_name.lstrip("-"))
            return f"{error.format_message().rstrip('.')}{what} ({_FROM_PARAMS})", 2
        except click.UsageError as error:
            return f"{error.format_message()} ({_FROM_PARAMS})", 2
        except click.ClickException as error:
            return error.format_message(), 1
        except InputError as error:
            return str(error), 1
        except OSError as error:
            if error.errno not in _SAY:
                raise
            return f"{_place(error)}: {_SAY[error.errno]}", 1
        except click.Abort as error:  # what click makes of a KeyboardInterrupt
            if isinstance(error.__cause__, Terminated):
                return "stopped by SIGTERM; run the same command again to go on", 143
            return "interrupted; run the same command again to go on", 130
        except (RuntimeError, MemoryError) as error:  # after click.Abort, which is a RuntimeError
            if "WORLD_SIZE" in os.environ and _lost(error):
                return LOST, 1
            if not out_of_memory(error):
                raise
            return "out of memory; use smaller networks, images or batches, or a machine that has more", 1
        return "", 0
