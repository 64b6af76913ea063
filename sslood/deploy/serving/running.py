"""A server that runs until it is told to stop, and then answers what it has begun."""

import contextlib
import socket

import uvicorn
from fastapi import FastAPI

from sslood.core.errors import InputError
from sslood.deploy.serving.limits import Limits

IDLE = 4  # connections for each request in work, most of which wait for their client
PATIENCE = 30  # seconds for what is in work when it is told to stop


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 is a free one. Raises InputError if the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"cannot listen on {host} port {port} ({error}); choose another --host or --port"
        ) from None


def address(listener: socket.socket) -> str:
    """Return where clients find a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def server(app: FastAPI, limits: Limits) -> uvicorn.Server:
    """Return a server of an application, not yet running."""
    config = uvicorn.Config(
        app,
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
