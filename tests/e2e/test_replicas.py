"""Two gateways on one Redis are one: one stream, one budget, one alarm, and nothing answered is lost."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e.harness import (
    GUARDED,
    PLAIN,
    START_S,
    Running,
    gateway,
    make_keys,
    npy,
    refusal,
)
from tests.redis_server import DURABLE, Server, redis_server

pytestmark = pytest.mark.redis
NPY = {"Content-Type": "application/x-npy"}
BUDGET = 1000
DENIES = [{"name": "all"}, {"name": "alarmed", "alarm": True, "deny_s": 86400}]
MODELS = {
    "plain": PLAIN | {"queue": {"max_rows_per_request": BUDGET}},
    "watched": PLAIN
    | {
        "detectors": [{"type": "rate", "rows": 20, "window_s": 86400}],
        "policy": DENIES,
    },
    "foreign": PLAIN
    | {
        "calibration": GUARDED["calibration"],
        "detectors": [d for d in GUARDED["detectors"] if d["type"] == "foreign"],
        "policy": DENIES,
    },
}


class Cluster:
    """A Redis, and gateways that share it, the secret and the keys."""

    def __init__(self, folder: Path, redis: Server, running: ExitStack) -> None:
        self.folder, self.redis, self._running = folder, redis, running
        self.keys = make_keys(folder, 30)
        self.replicas = [self.start("first"), self.start("second")]

    def start(self, name: str, **changes: Any) -> Running:
        """One more gateway, on a machine of its own as it were."""
        config: dict[str, Any] = {
            "store": self.redis.url,
            "secret": "a secret that the replicas share",
            "identity": {"keys": str(self.folder / "state/keys.json")},
            "tiers": {"default": {"rows": f"{BUDGET}/day"}},
            "models": MODELS,
        }
        return self._running.enter_context(gateway(self.folder / name, config | changes))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("replicas")
    with redis_server(folder / "redis", *DURABLE) as redis, ExitStack() as running:
        yield Cluster(folder, redis, running)


def ask(running: Running, key: str, rows: np.ndarray, model: str = "plain") -> httpx.Response:
    with running.client(key) as client:
        return client.post(f"/v1/models/{model}:predict", content=npy(rows), headers=NPY)


def until_denied(replicas: Sequence[Running], key: str, noise: np.ndarray, model: str) -> int:
    """Rows that were answered, one a query and the replicas in turn, before all refuse."""
    for asked in range(len(noise)):
        answer = ask(replicas[asked % len(replicas)], key, noise[asked : asked + 1], model)
        if answer.status_code != 200:
            for replica in replicas:
                refused = ask(replica, key, noise[:1], model)
                refusal(refused, 403, "this client is denied for now; ask the operator")
            return asked
    raise AssertionError(f"{len(noise)} rows and no alarm")


def used_of(running: Running, key: str) -> int:
    """How many rows of its budget a client has used, as a refusal tells it."""
    one = np.zeros((1, 28, 28), np.float32)
    assert ask(running, key, one).status_code == 200  # hears of what others counted
    refused = ask(running, key, np.repeat(one, BUDGET, axis=0))
    assert refused.status_code == 429
    left = refused.json()["error"].partition(f"{BUDGET} rows asked, ")[2].partition(" of")[0]
    return BUDGET - int(left) - 1


class Traffic:
    """One client that asks one row after the other, of every replica at the same time."""

    def __init__(self, replicas: Sequence[Running], key: str, row: np.ndarray) -> None:
        self.statuses: Counter[int] = Counter()
        self.asked = 0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._key, self._body = key, npy(row)
        self._threads = [
            threading.Thread(target=self._work, args=(replica,)) for replica in replicas
        ]

    def _work(self, replica: Running) -> None:
        while not self._stop.is_set():
            with self._lock:
                self.asked += 1
            status = 0  # no answer
            try:
                with replica.client(self._key) as client:
                    path = "/v1/models/plain:predict"
                    status = client.post(path, content=self._body, headers=NPY).status_code
            except httpx.TransportError:
                pass
            with self._lock:
                self.statuses[status] += 1
            if status != 200:
                time.sleep(0.02)

    def wait(self, enough: Callable[[Counter[int]], bool]) -> None:
        """Until the statuses are as a test wants them."""
        end = time.monotonic() + START_S
        while True:
            with self._lock:
                if enough(self.statuses):
                    return
            assert time.monotonic() < end, self.statuses
            time.sleep(0.02)

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def more(status: int, than: Counter[int], by: int = 20) -> Callable[[Counter[int]], bool]:
    goal = than[status] + by
    return lambda statuses: statuses[status] >= goal


@contextmanager
def restarted(redis: Server) -> Iterator[None]:
    """Redis is killed with -9, and started again after the block."""
    redis.kill()
    try:
        yield
    finally:
        redis.start()


@pytest.mark.parametrize("model", ["watched", "foreign"])
def test_replicas_raise_the_alarm_at_the_row_at_which_one_gateway_would(
    cluster: Cluster, model: str
) -> None:
    noise = np.random.default_rng(1).random((100, 28, 28), dtype=np.float32)
    alone = until_denied(cluster.replicas[:1], cluster.keys.pop(), noise, model)
    together = until_denied(cluster.replicas, cluster.keys.pop(), noise, model)

    assert together == alone
    assert alone > 1


def test_replicas_share_a_budget(cluster: Cluster, rows: np.ndarray) -> None:
    """Each may let one request through before it has heard of the other's count."""
    key = cluster.keys.pop()
    batch = np.repeat(rows[:1], BUDGET // 10, axis=0)
    answers = [ask(cluster.replicas[i % 2], key, batch).status_code for i in range(12)]
    last = [ask(replica, key, batch) for replica in cluster.replicas]

    assert answers[:10] == [200] * 10
    assert sorted(answers[10:]) in ([429, 429], [200, 429])
    for answer in last:
        refusal(answer, 429, "0 of 1000 per 1 day left")


def test_a_client_that_asks_both_at_once_is_charged_for_every_row(
    cluster: Cluster, rows: np.ndarray
) -> None:
    key = cluster.keys.pop()
    with Traffic([*cluster.replicas, *cluster.replicas], key, rows[:1]) as traffic:
        traffic.wait(lambda statuses: statuses[200] >= 200)
    answered = traffic.statuses[200]

    assert set(traffic.statuses) == {200}
    assert used_of(cluster.replicas[0], key) == answered


def test_kill_9_of_redis_loses_nothing_that_was_answered_and_serving_goes_on_by_itself(
    cluster: Cluster, rows: np.ndarray
) -> None:
    key, banned = cluster.keys.pop(), cluster.keys.pop()
    until_denied(cluster.replicas, banned, np.zeros((50, 28, 28), np.float32), "watched")
    with Traffic(cluster.replicas, key, rows[:1]) as traffic:
        traffic.wait(lambda statuses: statuses[200] >= 40)
        with restarted(cluster.redis):
            traffic.wait(more(503, traffic.statuses))
            refusal(ask(cluster.replicas[0], key, rows[:1]), 503, "no answer can be given now")
        traffic.wait(more(200, traffic.statuses))
    answered, asked = traffic.statuses[200], traffic.asked
    third = cluster.start("third")

    assert set(traffic.statuses) == {200, 503}
    refusal(ask(third, banned, rows[:1], "watched"), 403, "this client is denied for now")
    assert answered <= used_of(third, key) <= asked


def test_kill_9_of_a_replica_loses_nothing_that_was_answered(
    cluster: Cluster, rows: np.ndarray
) -> None:
    key = cluster.keys.pop()
    doomed = cluster.start("doomed")
    with Traffic([doomed, cluster.replicas[0]], key, rows[:1]) as traffic:
        traffic.wait(lambda statuses: statuses[200] >= 60)
        doomed.stop(signal.SIGKILL)
        traffic.wait(more(200, traffic.statuses))
    answered, asked = traffic.statuses[200], traffic.asked - traffic.statuses[0] + 1

    assert set(traffic.statuses) == {200, 0}
    assert answered <= used_of(cluster.replicas[1], key) <= asked


def test_a_gateway_that_may_serves_on_without_its_store_and_says_so(
    cluster: Cluster, rows: np.ndarray
) -> None:
    key, banned = cluster.keys.pop(), cluster.keys.pop()
    lenient = cluster.start("lenient", store_away="serve")
    until_denied([lenient], banned, np.zeros((50, 28, 28), np.float32), "watched")
    ask(lenient, key, rows[:1])
    with restarted(cluster.redis):
        during = [ask(lenient, k, rows[:1]).status_code for k in (key, key, cluster.keys.pop())]
        refused = ask(lenient, banned, rows[:1], "watched")
        away = lenient.total("mantlet_store_away")
    end = time.monotonic() + START_S
    while lenient.total("mantlet_store_away"):
        assert time.monotonic() < end
        ask(lenient, cluster.keys[0], rows[:1])
    used = used_of(cluster.replicas[0], key)

    assert during == [200] * 3
    refusal(refused, 403, "this client is denied for now")
    assert away == 1
    assert used == 3
    assert len(lenient.events("store_away")) == len(lenient.events("store_back")) == 1


def test_workers_share_a_redis_too(cluster: Cluster, rows: np.ndarray) -> None:
    key = cluster.keys.pop()
    workers = cluster.start("workers", listen={"workers": 2})
    end = time.monotonic() + START_S
    while len(workers.events("ready")) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    answers = [ask(workers, key, rows[:1], "watched").status_code for _ in range(30)]

    assert answers == [200] * 19 + [403] * 11
