"""Several processes on this machine, started by torchrun and ended with one sentence.

SSLOOD_PROCESSES  number of processes (default: 1, without torchrun)
"""

import logging
import os
import signal
import sys

from sslood.core.errors import InputError

AGAIN = "run the same command again to go on"


def start_processes(module: str) -> None:
    """Replace this process by torchrun with the same command, where SSLOOD_PROCESSES asks for several.

    InputError if the variable holds no number.
    """
    text = os.environ.get("SSLOOD_PROCESSES", "1")
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"environment variable SSLOOD_PROCESSES is {text!r}; use a number of at least 1")
    if int(text) > 1 and "WORLD_SIZE" not in os.environ:
        torchrun = ["-m", __name__, "--standalone", f"--nproc_per_node={text}", "-m", module]
        os.execv(sys.executable, [sys.executable, *torchrun, *sys.argv[1:]])


def launch() -> int:
    """Run torchrun with the arguments of this process, and return its exit status.

    Its own report, a traceback of some forty lines, is left out (not with SSLOOD_DEBUG=1): the process that
    failed has printed its sentence. Only a process that a signal ended is reported here.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if os.environ.get("SSLOOD_DEBUG") == "1":
        torchrun.main()
        return 0
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        torchrun.run(torchrun.parse_args(sys.argv[1:]))
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        print(f"Error: process {number} of the run was ended by {name}; {AGAIN}", file=sys.stderr)
        return 128 - failure.exitcode
    except SignalException as stop:
        how = "interrupted" if stop.sigval == signal.SIGINT else f"stopped by {stop.sigval.name}"
        print(f"Error: {how}; {AGAIN}", file=sys.stderr)
        return 128 + stop.sigval
    return 0


if __name__ == "__main__":
    sys.exit(launch())
