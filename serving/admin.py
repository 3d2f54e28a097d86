"""The admin plane: metrics, on a port of its own."""

import hmac

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.service import Service


def create_admin(service: Service) -> Starlette:
    """The ASGI application of the admin port; every path needs the token where one is set."""

    def refused(request: Request) -> Response | None:
        token = service.settings.admin.token
        if token is None:
            return None
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(given.encode(), token.get_secret_value().encode()):
            return None
        return JSONResponse({"error": "the admin token is missing or wrong"}, 401)

    async def metrics(request: Request) -> Response:
        refusal = refused(request)
        if refusal is not None:
            return refusal
        service.metrics.ready.set(service.ready)
        body = generate_latest(service.metrics.registry)
        return Response(body, media_type=CONTENT_TYPE_LATEST)

    async def elsewhere(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return refused(request) or JSONResponse({"error": error.detail}, error.status_code)

    return Starlette(
        routes=[Route("/metrics", metrics)], exception_handlers={HTTPException: elsewhere}
    )
