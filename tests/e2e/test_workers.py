"""Several workers: one port, one SQLite store, one budget, one alarm."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from tests.e2e.harness import PLAIN, START_S, Running, make_keys, npy, refusal, serve

NPY = {"Content-Type": "application/x-npy"}
WORKERS = 2
DENIES = {
    "detectors": [{"type": "rate", "rows": 20, "window_s": 86400}],
    "policy": [{"name": "all"}, {"name": "alarmed", "alarm": True, "deny_s": 3600}],
}


def wait_until_ready(started: Running) -> None:
    """Until every worker serves."""
    end = time.monotonic() + START_S
    while len(started.events("ready")) < WORKERS:
        assert started.process.poll() is None, started.log_path.read_text()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("workers")
    config: dict[str, Any] = {
        "listen": {"workers": WORKERS},
        "data_dir": str(folder / "state"),
        "tiers": {"default": {"rows": "40/day"}},
        "models": {"plain": PLAIN, "watched": PLAIN | DENIES},
    }
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(config))
    keys = make_keys(folder, 5)
    with serve(path) as started:
        wait_until_ready(started)
        (started.port,) = {entry["port"] for entry in started.events("listening")}
        started.keys = keys
        yield started


def ask(running: Running, key: str, rows: np.ndarray, model: str = "plain") -> httpx.Response:
    """On a connection of its own, which any worker may take."""
    with running.client(key) as client:
        return client.post(f"/v1/models/{model}:predict", content=npy(rows), headers=NPY)


def workers_of(running: Running) -> list[int]:
    """Process numbers of the workers; multiprocessing has a helper process of its own."""
    pid = running.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def rows_of_each(running: Running) -> list[float]:
    """How many rows every worker was asked for."""
    counts = []
    for entry in running.events("listening"):
        running.admin_port = entry["admin_port"]
        counts.append(running.computed()[0])
    return counts


def test_every_worker_answers(workers: Running, rows: np.ndarray) -> None:
    key = workers.new_key()
    said = [ask(workers, key, rows[:1]).status_code for _ in range(30)]

    assert said == [200] * 30
    assert min(rows_of_each(workers)) > 0


def test_workers_share_a_budget(workers: Running, rows: np.ndarray) -> None:
    """Each may let one request through before it has heard of the others' count."""
    key = workers.new_key()
    answers = [ask(workers, key, rows[:1]) for _ in range(60)]
    good = [answer for answer in answers if answer.status_code == 200]
    last = [ask(workers, key, rows[:1]) for _ in range(10)]

    assert 40 <= len(good) <= 40 + WORKERS - 1
    for answer in last:
        refusal(answer, 429, "0 of 40 per 1 day left")


def test_workers_share_an_alarm(workers: Running, rows: np.ndarray) -> None:
    key = workers.new_key()
    answers = [ask(workers, key, rows[:1], "watched") for _ in range(19)]
    after = [ask(workers, key, rows[:1], "watched") for _ in range(15)]

    assert [answer.status_code for answer in answers] == [200] * 19
    for answer in after:
        refusal(answer, 403, "this client is denied for now; ask the operator")


def test_the_end_of_all_is_the_end_of_each(tmp_path: Path) -> None:
    config = {
        "listen": {"workers": WORKERS},
        "data_dir": str(tmp_path / "state"),
        "models": {"plain": PLAIN},
    }
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(config))
    with serve(path) as started:
        wait_until_ready(started)
        (port,) = {entry["port"] for entry in started.events("listening")}
        code = started.stop(signal.SIGTERM)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1)

    assert code == 0
    assert len(started.events("stopped")) == WORKERS


def test_a_worker_that_dies_takes_the_others_along(tmp_path: Path) -> None:
    """Half a service would go unnoticed; one that ends is started anew by whoever supervises it."""
    path = tmp_path / "gateway.yaml"
    config = {"listen": {"workers": WORKERS}, "data_dir": str(tmp_path / "state")}
    path.write_text(yaml.safe_dump(config | {"models": {"plain": PLAIN}}))
    with serve(path) as started:
        wait_until_ready(started)
        (one, *_) = workers_of(started)
        os.kill(one, signal.SIGKILL)
        code = started.process.wait(60)

    assert code == 1
    assert len(started.events("stopped")) == WORKERS - 1
    assert started.log_lines()[-1] == "mantlet: a worker ended with -9"


def test_workers_without_a_shared_store_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump({"models": {"plain": PLAIN}}))
    with serve(path, "store=memory://", "listen.workers=2") as started:
        code = started.process.wait(60)
    (line,) = started.log_lines()

    assert code == 2
    assert "2 workers cannot share 'memory://'" in line
    assert "set store: sqlite:///state.db or workers: 1" in line
