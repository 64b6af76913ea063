"""The one exception for what a user can fix: a wrong key, value, file or machine setting."""

from sslood.core.names import shown


class InputError(ValueError):
    """Wrong input. The message is one sentence: what is wrong, where, and what to do.

    Stage scripts print it without a traceback and exit with status 1 (see `sslood.cli.command`).
    Anything else that escapes a script is a bug of ours and keeps its traceback.
    """


class LeftOut(InputError):
    """A row of the results that its image sets do not allow.

    Stages leave the row out, give the `reason` in their tables and go on (`sslood.core.needs`). Anywhere else
    it is wrong input; `where` stands before the reason in the message.
    """

    def __init__(self, reason: str, where: str = ""):
        super().__init__(where + reason)
        self.reason = reason


def known(name: str, kind: str, names) -> str:
    """Return `name` if it is one of `names`; else raise InputError listing them."""
    names = sorted(names)
    if name not in names:
        raise InputError(f"unknown {kind} {name!r}; known: {', '.join(names)}")
    return name


def as_line(text: object, limit: int = 200) -> str:
    """Return words of a library or a file as one line that a terminal can show, cut at `limit` characters."""
    line = " ".join(str(text).split()) or type(text).__name__
    return shown(line if len(line) <= limit else f"{line[: limit - 1]}…")


def out_of_memory(error: Exception) -> bool:
    """Whether an error of Python, NumPy or torch says that memory has run out.

    torch's errors are recognised by their text, so that scripts without torch need not import it.
    """
    texts = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")  # the last: cuBLAS, cuDNN
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)
