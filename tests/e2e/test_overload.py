"""More than it can do: shedding, deadlines, and requests that wait."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.e2e import gremlins
from tests.e2e.harness import OPEN, PLAIN, Running, gateway, npy, refusal

NPY = {"Content-Type": "application/x-npy"}


def ask(running: Running, rows: np.ndarray, model: str) -> httpx.Response:
    with running.client() as client:
        path = f"/v1/models/{model}:predict"
        return client.post(path, content=npy(rows), headers=NPY)


class Gated:
    """A gateway whose answers wait while its gate is shut."""

    def __init__(self, running: Running, gate: Path) -> None:
        self.running = running
        self.gate = gate
        self.threads = ThreadPoolExecutor(8)

    def ask(self, rows: np.ndarray, model: str) -> "Future[httpx.Response]":
        """Ask, without waiting for the answer."""
        return self.threads.submit(ask, self.running, rows, model)

    def occupy(self, rows: np.ndarray, model: str) -> "Future[httpx.Response]":
        """Shut the gate and send a request that waits behind it, in the middle of its batch."""
        self.gate.touch()
        passes = self.running.computed()[1]
        waiting = self.ask(rows, model)
        wait_until(lambda: self.running.computed()[1] > passes)
        return waiting

    def wait_for_queue(self, rows: int, model: str) -> None:
        wait_until(lambda: self.running.total("mantlet_queue_rows", model=model) == rows)


def wait_until(true: Callable[[], bool]) -> None:
    """Until a condition holds, and a minute at most."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gated]:
    folder = tmp_path_factory.mktemp("gated")
    gate = folder / "gate"
    behind = PLAIN | {"defenses": [{"type": "gate", "file": str(gate)}]}
    models = {
        "tiny": behind | {"queue": {"max_queue_rows": 3, "retry_after_s": 7}},
        "hasty": behind | {"queue": {"deadline_s": 0.5}},
    }
    env = gremlins.install(folder / "site")
    with gateway(folder, OPEN | {"models": models}, env=env) as started:
        held = Gated(started, gate)
        yield held
        gate.unlink(missing_ok=True)
        held.threads.shutdown()


@pytest.fixture(autouse=True)
def _open_gate(gated: Gated) -> Iterator[None]:
    yield
    gated.gate.unlink(missing_ok=True)


def test_beyond_the_queue_requests_are_shed(gated: Gated, rows: np.ndarray) -> None:
    working = gated.occupy(rows[:1], "tiny")
    waiting = gated.ask(rows[:2], "tiny")
    gated.wait_for_queue(2, "tiny")

    shed = ask(gated.running, rows[:2], "tiny")
    fits = gated.ask(rows[:1], "tiny")
    gated.wait_for_queue(3, "tiny")
    gated.gate.unlink()

    refusal(shed, 503, "the gateway is overloaded: 2 rows are waiting already; try again later")
    assert shed.headers["retry-after"] == "7"
    assert [answer.result().status_code for answer in (working, waiting, fits)] == [200] * 3
    assert gated.running.total("mantlet_refusals_total", reason="shed") == 1


def test_what_waited_beyond_its_deadline_is_dropped_before_compute(
    gated: Gated, rows: np.ndarray
) -> None:
    working = gated.occupy(rows[:1], "hasty")
    passes = gated.running.computed()[1]
    late = gated.ask(rows[:2], "hasty")
    gated.wait_for_queue(2, "hasty")
    said = "overloaded: the deadline passed while it {}; try again later"
    refusal(late.result(), 503, said.format("waited"))  # while the model is still busy
    refusal(working.result(), 503, said.format("was answered"))
    gated.gate.unlink()

    assert gated.running.computed()[1] == passes
    refusals = [
        gated.running.total("mantlet_refusals_total", reason=r) for r in ("expired", "late")
    ]
    assert refusals == [1, 1]


def test_health_answers_while_the_model_is_busy(gated: Gated, rows: np.ndarray) -> None:
    working = gated.occupy(rows[:1], "tiny")
    with gated.running.client() as client:
        health = client.get("/v2/health/ready", timeout=10)
    gated.gate.unlink()

    assert health.status_code == 200
    assert working.result().status_code == 200


@pytest.mark.parametrize("size", [3, 100])
def test_a_request_larger_than_the_queue_is_shed(
    running: Running, client: httpx.Client, rows: np.ndarray, size: int
) -> None:
    before = running.computed()[1]
    response = client.post("/v1/models/busy:predict", content=npy(rows[:size]), headers=NPY)

    refusal(response, 503, "the gateway is overloaded")
    assert running.computed()[1] == before
