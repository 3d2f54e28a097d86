"""The outermost layer: whatever goes wrong, one answer of one form leaves."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch
from starlette.exceptions import HTTPException
from torch import Tensor

from defenses.label_only import LabelOnly
from defenses.top_k import TopK
from detectors.rate import Rate
from mantlet.errors import RequestError, StoreError
from mantlet.types import Prediction
from serving.app import Guard, create_app, routes, wall_clock
from serving.exchange import Message
from serving.folding import ALARMS
from serving.keys import KeyFile
from serving.policy import Level
from serving.service import Service
from tests.helpers import TinyVictim, rows
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


PIXEL = 0.12890625
"""It is in every row that is asked, and no other number of a log begins so."""


class Talkative(TinyVictim):
    """Fails with what it was asked in its words."""

    def predict(self, inputs: Tensor) -> Prediction:
        raise ValueError(f"no answer to {inputs.tolist()}")


class Babbling(TopK):
    """A defense that fails with the clean answer in its words."""

    def apply(self, prediction: Prediction, *_: Any) -> Prediction:
        raise ValueError(f"no defense of {prediction.values.tolist()}")


@pytest.mark.parametrize(
    ("parts", "body", "status"),
    [
        ({"detectors": [Rate(rows=1)]}, [[PIXEL] * 16] * 3, 200),
        ({"defenses": [LabelOnly()]}, [[PIXEL] * 16], 200),
        ({"victim": Talkative()}, [[PIXEL] * 16], 503),
        ({"defenses": [Babbling(k=1)]}, [[PIXEL] * 16], 503),
        ({}, [[PIXEL] * 15 + ["x"]], 400),
        ({}, [[7 + PIXEL] * 16], 400),
        ({}, [[PIXEL] * 16] * 9, 413),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_neither_inputs_nor_clean_answers_nor_keys_are_logged(
    tmp_path: Path, parts: dict[str, Any], body: list[Any], status: int, known: bool
) -> None:
    ready = service(tmp_path)
    load(ready, **parts)
    key, _ = KeyFile(tmp_path / "keys.json").create("ann", "default", 0.0)
    sent = {"Authorization": f"Bearer {key if known else key[::-1]}"}
    clean = TinyVictim().predict(torch.full((1, 1, 4, 4), PIXEL)).values[0].tolist()
    with structlog.testing.capture_logs() as logged:
        response = client_of(ready).post(PATH, json={"instances": body}, headers=sent)
    ready.close()
    told = f"{logged} " + "".join(path.read_text() for path in tmp_path.glob("events.jsonl"))

    assert response.status_code == (status if known else 401)
    assert any(e["event"] == "refused" for e in logged) is (response.status_code != 200)
    for hidden in (key[3:], key[::-1][3:-3], f"{PIXEL}", *(repr(value)[:7] for value in clean)):
        assert hidden not in told


V2 = "/v2/models/mnist/infer"
TENSOR = {"name": "input", "datatype": "FP32", "shape": [1, 1, 4, 4], "data": [0.5] * 16}


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        (PATH, BODY, {}),
        (PATH, BODY, {"Accept": "application/x-npy"}),
        (V2, {"inputs": [TENSOR]}, {}),
        (V2, {"inputs": [TENSOR], "parameters": {"binary_data_output": True}}, {}),
        (PATH, {"instances": []}, {}),
    ],
)
def test_the_wire_says_nothing_of_suspicion(
    tmp_path: Path, path: str, body: Any, headers: dict[str, str]
) -> None:
    """A client that was alarmed of, treated alike, is answered as one of whom nothing is known, to the byte."""
    levels = (Level(name="normal"), Level(name="alarmed", alarm=True))
    answers = []
    for most in (1, 1000):
        ready = service(tmp_path / str(most))
        load(ready, detectors=[Rate(rows=most)], levels=levels)
        client = client_of(ready)
        client.post(PATH, json=BODY)
        answers.append(client.post(path, json=body, headers=headers))
        memory = ready.gateways["mnist"].memory_of(next(iter(ready.admission.known())))
        assert (ALARMS in memory) is (most == 1)
    said = [{k: v for k, v in a.headers.items() if k != "x-request-id"} for a in answers]

    assert said[0] == said[1]
    assert said[0].keys() <= {"content-type", "content-length", "inference-header-content-length"}
    assert answers[0].content == answers[1].content


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
