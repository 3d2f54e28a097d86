"""The admin plane: metrics, clients, campaigns, events and ownership, on a port of its own."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from mantlet.errors import MantletError, RequestError
from serving import intervening, oversight
from serving.events.kinds import EventKind
from serving.oversight import Fields
from serving.ownership_http import Desk
from serving.service import Service
from serving.settings import is_loopback

Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=10**9)]


def create_admin(service: Service) -> FastAPI:
    """The ASGI application of the admin port; every path needs the token where one is set."""
    app = FastAPI(title="Mantlet, for its operator", docs_url=None, redoc_url=None)
    _guard(app, service)
    _add_errors(app)

    @app.get("/metrics")
    def metrics() -> Response:
        """The metrics, for Prometheus."""
        service.metrics.ready.set(service.ready)
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    _add_clients(app, service)

    @app.get("/campaigns")
    def campaigns() -> Fields:
        """The campaigns that were found, with their members."""
        return oversight.campaigns(service)

    @app.get("/events")
    def events(
        after: Offset = 0,
        limit: Limit = 100,
        kind: Annotated[list[EventKind] | None, Query()] = None,
    ) -> Fields:
        """Events, oldest first, from the one that follows number ``after``."""
        found = list(service.events.read(after=after, limit=limit, kinds=kind or ()))
        told = [{"number": r.number, "at": r.at, **r.event.model_dump(mode="json")} for r in found]
        return {"events": told, "next": found[-1].number if found else after}

    _add_ownership(app, service)
    return app


def _add_clients(app: FastAPI, service: Service) -> None:
    @app.get("/clients")
    def clients(model: str | None = None, limit: Limit = 100, offset: Offset = 0) -> Fields:
        """The clients, the most suspicious first."""
        return oversight.clients(service, model=model, limit=limit, offset=offset)

    @app.get("/clients/{client}")
    def client(client: str) -> Fields:
        """One client, with its suspicion over time."""
        return oversight.client(service, client)

    @app.post("/clients/{client}")
    def change(client: str, wanted: intervening.Change) -> Fields:
        """Decide something about a client."""
        return intervening.change(service, client, wanted)


def _add_ownership(app: FastAPI, service: Service) -> None:
    desk = Desk(service)

    @app.post("/ownership/{model}")
    async def ownership(model: str, request: Request) -> Fields:
        """How strong the evidence is that pictures (zip, .npz, .npy) came of this model, or of a copy of it."""
        desk.enter()
        desk.key(model)
        body = await service.read_body(request.receive, request.headers)
        return await asyncio.to_thread(desk.answer, model, body)


def _guard(app: FastAPI, service: Service) -> None:
    """Let nobody through without the token, whatever the path.

    Without one, who asks must call this machine by its own name: a page in the operator's browser whose
    own name was made to point here would not.
    """
    token = service.settings.admin.token

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if token is None:
            named = _name(request.headers.get("host", ""))
            if not is_loopback(named):
                mistake = f"this port is no {named[:80]!a}; ask localhost, or set admin.token"
                return _error(403, mistake)
        else:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), token.get_secret_value().encode()):
                return _error(401, "the admin token is missing or wrong")
        return await answer(request)


def _name(host: str) -> str:
    """The name in a Host header, without the port and the brackets of IPv6."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return host


def _add_errors(app: FastAPI) -> None:
    """All errors have one form, ``{"error": ...}``, as on the clients' port."""

    @app.exception_handler(HTTPException)
    async def elsewhere(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return _error(404, "no such path; there are /clients, /campaigns, /events and /metrics")
        return _error(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        known = ", ".join(intervening.Change.model_fields)
        extra = first["type"] == "extra_forbidden"
        return _error(400, f"{field}: {f'unknown; known: {known}' if extra else first['msg']}")

    @app.exception_handler(MantletError)
    async def failed(request: Request, error: MantletError) -> Response:
        if isinstance(error, RequestError):
            return _error(error.status, str(error), error.headers)
        return _error(503, str(error))


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)
