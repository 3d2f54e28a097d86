"""The data plane: routes, request ids, and the one place where an error becomes a response."""

import asyncio
import functools
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable

import structlog
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from mantlet import __version__
from mantlet.errors import RequestError
from serving import api_explain, api_images, api_v1, api_v2, openapi
from serving.exchange import Disconnected, Message, Receive, Scope, Send, reply_error
from serving.service import Service

log = structlog.get_logger(__name__)
Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]


def wall_clock() -> float:
    """Seconds since 1970; the only place that asks the machine."""
    return time.time()  # noqa: TID251  # see the docstring


def create_app(service: Service) -> Endpoint:
    """The ASGI application of the data plane.

    The protocol's routes are plain ASGI endpoints: no pydantic model is built of a body's floats. All
    other paths go to a FastAPI application, which shows the OpenAPI pages.
    """
    pages = FastAPIOffline(title="Mantlet", version=__version__, redirect_slashes=False)
    pages.openapi = lambda: openapi.document(  # type: ignore[method-assign]  # FastAPI's documented way
        service.settings, (gateway.version for gateway in service.gateways.values())
    )
    pages.add_exception_handler(HTTPException, _not_here)
    return Guard(Router(routes(service), redirect_slashes=False, default=pages), service)


def routes(service: Service) -> list[Route]:
    """Paths of the V1 and V2 protocols, the hot ones first."""
    infer, ready = api_v2.Infer(service), api_v2.Ready(service)
    metadata = api_v2.ModelMetadata(service)
    table: list[tuple[str, str, Endpoint]] = [
        ("POST", "/v1/models/{model}:predict", api_v1.Predict(service)),
        ("POST", "/v1/models/{model}:generate", api_images.Generate(service)),
        ("POST", "/v1/models/{model}:translate", api_images.Translate(service)),
        ("POST", "/v1/models/{model}:explain", api_explain.Explain(service)),
        ("POST", "/v2/models/{model}/infer", infer),
        ("POST", "/v2/models/{model}/versions/{version}/infer", infer),
        ("GET", "/v2/health/live", api_v2.Live()),
        ("GET", "/v2/health/ready", ready),
        ("GET", "/v2", api_v2.ServerMetadata()),
        ("GET", "/v2/models/{model}", metadata),
        ("GET", "/v2/models/{model}/versions/{version}", metadata),
        ("GET", "/v2/models/{model}/ready", ready),
        ("GET", "/v2/models/{model}/versions/{version}/ready", ready),
        ("GET", "/", api_v1.Alive()),
        ("GET", "/v1/models", api_v1.ListModels(service)),
        ("GET", "/v1/models/{model}", api_v1.ModelStatus(service)),
    ]
    return [Route(path, endpoint, methods=[method]) for method, path, endpoint in table]


async def _not_here(request: Request, error: Exception) -> Response:
    """404 and 405 of the pages, in the one form that errors have."""
    assert isinstance(error, HTTPException)
    refused = _refusal(error)
    return JSONResponse({"error": str(refused)}, refused.status, dict(refused.headers))


def _refusal(error: HTTPException) -> RequestError:
    known = {404: "no such path; see /docs", 405: "this path takes another method"}
    message = known.get(error.status_code, str(error.detail))
    return RequestError(error.status_code, message, reason="path", headers=error.headers)


def _closed(reason: str) -> RequestError:
    return RequestError(
        503,
        "no answer can be given now; try again later",
        reason=reason,
        headers={"Retry-After": "1"},
    )


class Guard:
    """Outermost: gives every request an id, counts it, and turns errors into responses.

    Whatever goes wrong, exactly one response leaves; what is not an error raised on purpose is logged
    with its traceback and answered with 503.
    """

    def __init__(self, app: Endpoint, service: Service) -> None:
        self._app = app
        self._service = service
        self._metrics = service.metrics
        self._numbers = itertools.count(1)
        self._start = secrets.token_hex(4)
        # found once: to look up a label costs more than to count
        self._observed = functools.cache(
            lambda route, status: (
                self._metrics.requests.labels(route, status),
                self._metrics.request_s.labels(route),
            )
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Watched(scope, send, f"{self._start}-{next(self._numbers)}", self._service)
        since = time.perf_counter()
        scope["app"] = self  # tells Starlette's routes that errors may be raised
        try:
            await self._app(scope, receive, exchange.send)
        except Disconnected:
            exchange.status = exchange.status or 499
        except RequestError as error:
            await self._refuse(exchange, error)
        except HTTPException as error:
            await self._refuse(exchange, _refusal(error))
        except Exception as error:
            log.exception("unexpected_error", request_id=exchange.id, kind=type(error).__name__)
            await self._refuse(exchange, _closed("unexpected"))
        except (
            asyncio.CancelledError
        ):  # the time to drain is over: the task ends here, with an answer
            await self._refuse(exchange, _closed("drained"))
        count, seconds = self._observed(exchange.route, exchange.status)
        count.inc()
        seconds.observe(time.perf_counter() - since)

    async def _refuse(self, exchange: "_Watched", error: RequestError) -> None:
        self._metrics.refusals.labels(error.reason).inc()
        log.info(
            "refused",
            request_id=exchange.id,
            route=exchange.route,
            status=error.status,
            reason=error.reason,
        )
        if not exchange.status:
            await reply_error(exchange.send, error)


class _Watched:
    """Sends what the application sends, with the request's id; remembers the status."""

    def __init__(self, scope: Scope, send: Send, number: str, service: Service) -> None:
        self._scope, self._send, self._service = scope, send, service
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        self.id = given if 0 < len(given) <= 64 and given.isprintable() else number
        self.status = 0

    @property
    def route(self) -> str:
        """The endpoint's name, so that a metric has few values."""
        endpoint = self._scope.get("endpoint")
        return "pages" if endpoint is None else type(endpoint).__name__.lower()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self.id.encode("latin-1"))]
            if self._service.leaving:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)
