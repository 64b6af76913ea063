"""A server that runs until it is told to stop, and then answers what it has begun."""

import asyncio
import contextlib
import errno
import socket
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from sslood.core.errors import InputError
from sslood.deploy.serving.app import failure
from sslood.deploy.serving.limits import Limits, busy

IDLE = 4  # connections for each request in work, most of which wait for their client
PATIENCE = 30  # seconds for what is in work when it is told to stop


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 is a free one. Raises InputError if the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise InputError(f"port {port} is already in use; choose another --port") from None
        raise InputError(
            f"cannot listen on {host} port {port} ({error}); choose another --host or --port"
        ) from None


def address(listener: socket.socket) -> str:
    """Return where clients find a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class Connection(H11Protocol):
    """A connection with a client, closed if no request is in work for `seconds`, whatever else is sent.

    uvicorn waits without end for the header of a first request, and for the end of any that has begun.
    """

    def __init__(self, *args: Any, seconds: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.seconds = seconds
        self.waiting: asyncio.TimerHandle | None = None
        # uvicorn would answer in a form of its own
        self.most, self.limit_concurrency = self.limit_concurrency, None
        self.inner, self.app = self.app, self._answered

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self.waiting is None:  # what trickles in does not put it off
            self.waiting = self.loop.call_later(self.seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None

    async def _answered(self, scope: Any, receive: Any, send: Any) -> None:
        if self.most is None or len(self.connections) <= self.most:
            return await self.inner(scope, receive, send)
        refused = busy()
        headers = {**refused.headers, "Connection": "close"}
        await failure(refused.status, str(refused), headers)(scope, receive, send)


def server(app: FastAPI, limits: Limits) -> uvicorn.Server:
    """Return a server of an application, not yet running."""
    config = uvicorn.Config(
        app,
        http=partial(Connection, seconds=limits.seconds),  # type: ignore[arg-type]  # called as a class is
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=IDLE * limits.requests,
        timeout_graceful_shutdown=PATIENCE,
    )
    return uvicorn.Server(config)


def run(app: FastAPI, listener: socket.socket, limits: Limits) -> None:
    """Serve until SIGINT or SIGTERM, answer the requests that are in work, and return."""
    with contextlib.suppress(KeyboardInterrupt):  # raised again by uvicorn once it has stopped
        server(app, limits).run(sockets=[listener])
