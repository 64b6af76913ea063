"""What decoders say of a picture that they read all the same: kept with the picture, not printed without it.

Pillow warns and logs through Python; libtiff writes to file descriptor 2.
"""

import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_heard = threading.local()  # .lines: where this thread's picture keeps what is said of it
_lock = threading.Lock()
_libtiff = threading.Lock()  # file descriptor 2 belongs to the whole process
_MOST = 4096  # bytes that are kept of what libtiff writes


class _Keep(logging.Handler):
    """Without a handler Python prints errors of Pillow's loggers to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        _lines().append(record.getMessage())


logging.getLogger("PIL").addHandler(_Keep(logging.WARNING))


def _lines() -> list[str]:
    """Return the list that this thread's picture keeps; outside of `listening` one that nobody reads."""
    return getattr(_heard, "lines", [])


class _Warnings:
    """Python's warnings, kept as long as any thread listens: their filters hold for all threads alike."""

    count = 0

    def __enter__(self) -> None:
        with _lock:
            self.count += 1
            if self.count > 1:
                return
            self.filters = warnings.catch_warnings()
            self.filters.__enter__()
            warnings.filterwarnings("always", module=r"PIL\b")
            warnings.filterwarnings("ignore", ".* image format is deprecated", DeprecationWarning)
            show = warnings.showwarning

            def keep(message: Warning | str, *args: Any, **kwargs: Any) -> None:
                if hasattr(_heard, "lines"):
                    _lines().append(str(message))
                else:
                    show(message, *args, **kwargs)

            warnings.showwarning = keep

    def __exit__(self, *error: object) -> None:
        with _lock:
            self.count -= 1
            if not self.count:
                self.filters.__exit__(None, None, None)


warnings_kept = _Warnings()  # to enter once for many pictures is quicker than for each


class listening:  # noqa: N801 - a class is quicker than a generator, and this is done for every picture
    """Yield a list that gets what Pillow says in this thread, each as one line."""

    def __enter__(self) -> list[str]:
        warnings_kept.__enter__()
        _heard.lines = []
        return _heard.lines

    def __exit__(self, *error: object) -> None:
        del _heard.lines
        warnings_kept.__exit__()


@contextmanager
def libtiff_heard() -> Iterator[None]:
    """Keep what libtiff writes to file descriptor 2 with the picture of this thread, one thread at a time."""
    with _libtiff, tempfile.TemporaryFile() as file:
        try:
            before = os.dup(2)
        except OSError:  # closed, so there is nothing to keep clean
            yield
            return
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            for line in file.read(_MOST).decode(errors="replace").splitlines(keepends=True):
                if "\r" in line or "%|" in line:  # a progress bar of another thread
                    sys.stderr.write(line)
                else:
                    _lines().append(line.strip())
