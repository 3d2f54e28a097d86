"""The end: SIGTERM under load loses nothing that was accepted."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e import gremlins
from tests.e2e.harness import GUARDED, OPEN, PLAIN, TIERS, Running, gateway, npy, refusal

NPY = {"Content-Type": "application/x-npy"}
PATH = "/v1/models/mnist:predict"


@dataclass
class Regular:
    """A client that keeps its connection and asks until it is told to close it."""

    port: int
    body: bytes
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    told_to_close: bool = False

    def ask_on(self) -> None:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            while not self.told_to_close and not self.failures:
                try:
                    connection.request("POST", PATH, self.body, NPY)
                    response = connection.getresponse()
                    answer = json.loads(response.read())
                except (OSError, HTTPException, ValueError) as error:
                    self.failures.append(repr(error))
                    return
                if response.status != 200 or len(answer["predictions"]) != 3:
                    self.failures.append(f"{response.status} {answer}")
                self.answered += 1
                self.told_to_close = response.getheader("connection") == "close"


def test_sigterm_under_load_loses_no_answer(tmp_path: Path, rows: np.ndarray) -> None:
    with gateway(tmp_path, OPEN | {"tiers": TIERS, "models": {"mnist": GUARDED}}) as started:
        regulars = [Regular(started.port, npy(rows[n : n + 3])) for n in range(8)]
        threads = [threading.Thread(target=regular.ask_on) for regular in regulars]
        for thread in threads:
            thread.start()
        while min(regular.answered for regular in regulars) < 5:
            assert not [f for regular in regulars for f in regular.failures]
            time.sleep(0.01)
        code = started.stop(signal.SIGTERM)
        for thread in threads:
            thread.join(60)

    assert [regular.failures for regular in regulars] == [[]] * 8
    assert all(regular.told_to_close for regular in regulars)
    assert code == 0
    assert started.events("stopped")


def test_readiness_goes_before_the_answers_do(tmp_path: Path, rows: np.ndarray) -> None:
    with gateway(tmp_path, OPEN) as started, started.client() as prober:
        assert prober.get("/v2/health/ready").json() == {"ready": True}

        started.process.send_signal(signal.SIGTERM)
        response = prober.get("/v2/health/ready")
        while response.status_code == 200:
            response = prober.get("/v2/health/ready")
        live = prober.get("/v2/health/live")
        answer = prober.post(PATH, content=npy(rows[:3]), headers=NPY)
        farewell = prober.get("/v2/health/live")
        while "connection" not in farewell.headers:
            farewell = prober.get("/v2/health/live")
        code = started.process.wait(60)

    assert response.status_code == 503
    assert response.json() == {"ready": False}
    assert "connection" not in response.headers, "nobody is sent away while others may come"
    assert farewell.headers["connection"] == "close"
    assert live.json() == {"live": True}
    assert len(answer.json()["predictions"]) == 3
    assert code == 0


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """While this file is there, answers wait."""
    path = tmp_path / "gate"
    path.touch()
    yield path
    path.unlink(missing_ok=True)


def behind(gate: Path, **listen: Any) -> dict[str, Any]:
    guarded = PLAIN | {"defenses": [{"type": "gate", "file": str(gate)}]}
    return OPEN | {"listen": listen, "models": {"mnist": guarded}}


def occupied(
    running: Running, rows: np.ndarray, pool: ThreadPoolExecutor
) -> "Future[httpx.Response]":
    """A request that waits behind the gate."""

    def ask() -> httpx.Response:
        with running.client() as client:
            return client.post(PATH, content=npy(rows[:3]), headers=NPY)

    asked = pool.submit(ask)
    while running.computed()[1] == 0:
        time.sleep(0.01)
    return asked


def test_what_is_under_way_at_sigterm_is_finished(
    tmp_path: Path, rows: np.ndarray, gate: Path
) -> None:
    env = gremlins.install(tmp_path / "site")
    with (
        ThreadPoolExecutor() as pool,
        gateway(tmp_path, behind(gate), env=env) as started,
    ):
        asked = occupied(started, rows, pool)
        started.process.send_signal(signal.SIGTERM)
        started.wait_for("draining")
        time.sleep(1.0)  # longer than the port stays open
        waiting = not asked.done()
        gate.unlink()
        answer = asked.result()
        code = started.process.wait(60)

    assert waiting
    assert answer.status_code == 200
    assert len(answer.json()["predictions"]) == 3
    assert code == 0


def test_what_never_finishes_is_not_waited_for_forever(
    tmp_path: Path, rows: np.ndarray, gate: Path
) -> None:
    env = gremlins.install(tmp_path / "site")
    with (
        ThreadPoolExecutor() as pool,
        gateway(tmp_path, behind(gate, drain_s=1), env=env) as started,
    ):
        asked = occupied(started, rows, pool)
        code = started.stop(signal.SIGTERM)

    refusal(asked.result(), 503, "no answer can be given now; try again later")
    assert gate.exists()
    assert code == 0


def test_sigint_ends_it_as_well(tmp_path: Path) -> None:
    with gateway(tmp_path, OPEN) as started:
        assert started.stop(signal.SIGINT) == 0
