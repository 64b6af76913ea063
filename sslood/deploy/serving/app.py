"""The addresses of the service: pictures in, decisions out, as JSON over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from sslood.core.errors import InputError, as_line
from sslood.core.names import shown
from sslood.deploy.scorer import Deployed
from sslood.deploy.serving.answers import BODY, Answer, Failure, Options
from sslood.deploy.serving.limits import Limits, Refused
from sslood.deploy.serving.service import Service, description

FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure, "description": text}
    for status, text in {
        400: "The body is not what its type says, or an option is unknown.",
        408: "The body took too long.",
        413: "Too many pictures or bytes.",
        415: "A body of another type.",
        422: "A picture that cannot be read, or a rate that the calibration does not allow.",
        503: "Too much in work; try again.",
    }.items()
}


def application(
    scorer: Deployed, *, checksum: str = "", limits: Limits | None = None, batch_size: int = 64
) -> FastAPI:
    """Return the service of a scorer: POST /score, GET /detector, GET /health.

    checksum: of the detector file, for /detector. batch_size: images that the network takes at a time. Every
    failure is answered with {"error": one sentence}, and what a client can put right with a status of 4xx.
    """
    service = Service(scorer, limits or Limits(), batch_size)
    about = description(scorer, checksum, service.limits)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        await service.close()

    title = f"Decisions by {about['detector']}"
    # no pages of /docs, which load scripts from elsewhere
    app = FastAPI(title=title, lifespan=running, docs_url=None, redoc_url=None)

    @app.post("/score", responses=FAILURES, openapi_extra={"requestBody": BODY})
    async def score(request: Request, options: Annotated[Options, Query()]) -> Answer:
        """Decide about pictures: files of a form, base64 in JSON, or one picture as the body."""
        return await service.answer(request, options)

    @app.get("/detector")
    async def detector() -> dict[str, Any]:
        """Say what decides, by which rule, and why not to trust it."""
        return about

    @app.get("/health")
    async def health() -> JSONResponse:
        """Say whether it works, and what it has done so far."""
        status, content = service.health()
        return JSONResponse(content, status)

    _say_failures(app)
    return app


def _say_failures(app: FastAPI) -> None:
    """Give all failures one form."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return failure(error.status, str(error), error.headers)

    @app.exception_handler(InputError)
    async def unfit(request: Request, error: InputError) -> JSONResponse:
        return failure(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def option(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        name, known = as_line(first["loc"][-1]), ", ".join(Options.model_fields)
        if first["type"] == "extra_forbidden":
            return failure(400, f"unknown option {name!r} in the address; known: {known}")
        return failure(400, f"option {name!r} in the address: {as_line(first['msg'])}; known: {known}")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        there = "POST /score, GET /detector, GET /health and GET /openapi.json are there"
        text = f"{request.method} {as_line(request.url.path)}: {error.detail}; {there}"
        return failure(error.status_code, text, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        return failure(400, "the client is gone")  # nobody reads it

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return failure(500, "the server failed; what happened is in its log")


def failure(status: int, sentence: str, headers: Any = None) -> JSONResponse:
    """Return the one form of all failures."""
    return JSONResponse({"error": shown(sentence)}, status, headers)
