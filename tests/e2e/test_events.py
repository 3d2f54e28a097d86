"""The event log of a running gateway: an attack is in it, it holds no input, and sudden death breaks no chain."""

import json
import signal
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

from serving.app import wall_clock
from serving.events.log import EventLog
from tests.e2e.harness import GUARDED, TIERS, Running, gateway, npy

NPY = {"Content-Type": "application/x-npy"}
PATH = "/v1/models/mnist:predict"
SHARED = "shared with the receiver"


def problems(folder: Path) -> tuple[str, ...]:
    state = folder / "state"
    secret = (state / "secret").read_bytes()
    log = EventLog.open("jsonl:///events.jsonl", folder=state, secret=secret, clock=wall_clock)
    return log.verify().problems


def attack(running: Running, key: str, seed: int) -> None:
    """Noise, which no honest client sends; it is found out within the first request."""
    noise = np.random.default_rng(seed).random((64, 1, 28, 28), dtype=np.float32)
    with running.client(key) as thief:
        assert thief.post(PATH, content=npy(noise), headers=NPY).status_code == 403


def wait_for(bodies: list[dict[str, Any]], count: int) -> None:
    for _ in range(3000):
        if len(bodies) >= count:
            return
        Event().wait(0.01)
    raise AssertionError(f"no {count} events were posted: {bodies}")


@pytest.fixture
def posted() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The URL of a receiver of webhooks, and what it was posted."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", bodies
        server.shutdown()
        thread.join()


def test_an_attack_is_in_the_log_and_sudden_death_breaks_no_chain(
    tmp_path: Path, posted: tuple[str, list[dict[str, Any]]]
) -> None:
    url, bodies = posted
    hook = {"url": url, "secret": SHARED, "kinds": ["alarm"]}
    config = {"tiers": TIERS, "models": {"mnist": GUARDED}, "webhook": hook}
    with gateway(tmp_path, config, clients=3) as running:
        for seed, key in enumerate(running.keys):
            attack(running, key, seed)
        wait_for(bodies, 3)
        running.stop(signal.SIGKILL)
    after_death = problems(tmp_path)
    with gateway(tmp_path, config, clients=1) as running:
        attack(running, running.new_key(), 9)
        code = running.stop()
    content = (tmp_path / "state/events.jsonl").read_text()
    events = [json.loads(line) for line in content.splitlines()]
    first = bodies[0]["fields"]

    assert (after_death, problems(tmp_path), code) == ((), (), 0)
    assert {body["fields"]["name"] for body in bodies} == {f"client-{n}" for n in range(4)}
    assert first["rows"] == 64
    assert len(first["weights"]) == 64
    assert first["detectors"]["foreign"]["alarm"]
    assert [event["kind"] for event in events].count("config_loaded") == 2
    assert [event for event in events if event["kind"] == "alarm"] == bodies
