"""The outermost layer: whatever goes wrong, one answer of one form leaves."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog
from starlette.exceptions import HTTPException

from mantlet.errors import RequestError, StoreError
from serving.app import Guard, create_app, routes, wall_clock
from serving.exchange import Message
from serving.service import Service
from tests.helpers import rows
from tests.serving.inprocess import Client, client_of, load, service

PATH = "/v1/models/mnist:predict"
BODY = {"instances": rows(1).tolist()}


def failing(ready: Service, error: BaseException) -> Guard:
    """An application whose every request ends so."""

    async def fail(*_: Any) -> None:
        raise error

    return Guard(fail, ready)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ZeroDivisionError("secret words"), 503, "unexpected"),
        (StoreError("secret words"), 503, "unexpected"),
        (asyncio.CancelledError("secret words"), 503, "drained"),
        (RequestError(418, "short and stout", reason="tea"), 418, "tea"),
        (HTTPException(404), 404, "path"),
        (HTTPException(405, headers={"Allow": "POST"}), 405, "path"),
    ],
)
def test_every_failure_is_one_answer(
    tmp_path: Path, error: BaseException, status: int, reason: str
) -> None:
    ready = service(tmp_path)
    with structlog.testing.capture_logs() as logged:
        response = Client(failing(ready, error)).post(PATH, json=BODY)
    refusals = [e for e in logged if e["event"] == "refused"]

    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert "secret" not in response.text
    assert [(e["status"], e["reason"]) for e in refusals] == [(status, reason)]
    assert ready.metrics.refusals.labels(reason)._value.get() == 1
    assert ("retry-after" in response.headers) is (status == 503)
    assert ("allow" in response.headers) is (status == 405)


def test_an_unexpected_failure_is_logged_with_its_request(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logged:
        response = Client(failing(service(tmp_path), ZeroDivisionError())).get("/")
    (event,) = (e for e in logged if e["event"] == "unexpected_error")

    assert event["kind"] == "ZeroDivisionError"
    assert event["request_id"] == response.headers["x-request-id"]


def call(application: Any, scope: dict[str, Any], *incoming: Message) -> list[Message]:
    """What an application sends to a scope."""
    sent: list[Message] = []
    messages = list(incoming)

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(application(scope, receive, send))
    return sent


def scope_of(method: str = "POST", path: str = PATH) -> dict[str, Any]:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [],
        "client": ("127.0.0.1", 1),
        "query_string": b"",
        "root_path": "",
    }


def test_a_client_that_left_is_counted_and_not_answered(tmp_path: Path) -> None:
    ready = service(tmp_path)
    load(ready)

    assert call(create_app(ready), scope_of(), {"type": "http.disconnect"}) == []
    assert ready.metrics.requests.labels("predict", 499)._value.get() == 1


def test_while_it_leaves_every_answer_ends_its_connection(tmp_path: Path) -> None:
    ready = service(tmp_path)
    load(ready)
    client = client_of(ready)
    before = client.post(PATH, json=BODY)
    ready.draining = ready.leaving = True
    after = client.post(PATH, json=BODY)

    assert (before.status_code, after.status_code) == (200, 200)
    assert "connection" not in before.headers
    assert after.headers["connection"] == "close"


def test_routes_are_counted_by_endpoint_and_not_by_path(tmp_path: Path) -> None:
    ready = service(tmp_path)
    load(ready)
    client = client_of(ready)
    for number in range(3):
        client.get(f"/v2/models/nobody-{number}")
        client.get(f"/nothing-{number}")

    counted = {s.labels["route"] for m in ready.metrics.requests.collect() for s in m.samples}
    assert counted == {"modelmetadata", "pages"}


def test_every_documented_path_is_a_route_and_the_reverse(tmp_path: Path) -> None:
    ready = service(tmp_path)
    documented = client_of(ready).get("/openapi.json").json()["paths"]
    served = {(route.path, method) for route in routes(ready) for method in route.methods or ()}

    assert {(path, m.upper()) for path, methods in documented.items() for m in methods} == {
        (path, method) for path, method in served if method != "HEAD"
    }


def test_head_is_get_without_a_body(tmp_path: Path) -> None:
    assert client_of(service(tmp_path)).request("HEAD", "/v2/health/live").status_code == 200


def test_the_clock_tells_seconds_since_1970() -> None:
    assert 1.7e9 < wall_clock() < 1e10
