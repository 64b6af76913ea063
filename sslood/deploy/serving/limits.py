"""What a server takes on: bounds of one request, and of all that are in work at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sslood.core.errors import InputError

MIB = 1 << 20
HOLD = 8  # requests of the largest size whose bytes are held at a time; others are told to wait


@dataclass(frozen=True)
class Limits:
    """Bounds of requests: pictures and MiB of one, requests in work at a time, seconds to send one."""

    images: int = 64
    megabytes: int = 32
    requests: int = 64
    seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise InputError(f"the limit of {name} must be above 0, found {value}")

    @property
    def bytes(self) -> int:
        """The most bytes of a request's body."""
        return self.megabytes * MIB


class Refused(Exception):
    """A request that is not answered: HTTP status, one sentence, headers."""

    def __init__(self, status: int, sentence: str, **headers: str):
        super().__init__(sentence)
        self.status, self.headers = status, headers


def too_large(limits: Limits) -> Refused:
    """Return the refusal of a body that is longer than allowed."""
    return Refused(
        413,
        f"the request has more than the {limits.megabytes} MiB that this server takes; send fewer or smaller "
        "pictures, or start it with a larger --max_mb",
    )


def busy() -> Refused:
    """Return the refusal of what is too much at a time."""
    return Refused(
        503, "the server has all the work that it takes at a time; try again", **{"Retry-After": "1"}
    )


class Gate:
    """Counts what is in work, and turns away what is too much. For one event loop, so without locks."""

    def __init__(self, limits: Limits):
        self.limits, self.requests, self.held = limits, 0, 0

    @contextmanager
    def enter(self) -> Iterator[Callable[[int], None]]:
        """Yield what counts bytes of a request's body as they come.

        Raises Refused (503) where too much is in work already, and (413) when the body gets too long.
        """
        if self.requests >= self.limits.requests:
            raise busy()
        own = 0

        def take(count: int) -> None:
            nonlocal own
            own += count
            self.held += count
            if own > self.limits.bytes:
                raise too_large(self.limits)
            if self.held > HOLD * self.limits.bytes:
                raise busy()

        self.requests += 1
        try:
            yield take
        finally:
            self.requests -= 1
            self.held -= own
