"""What kill -9 in the middle of an attack costs: whose alarm, refusal or budget is lost, and how long nobody is answered.

``python -m tests.benchmarks.faults --out docs/results/faults.json`` starts real gateways on sqlite and on a real
Redis. Thieves with an account each send noise until they are refused, and others spend a budget; in the
middle of it one process is killed.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp
import httpx
import numpy as np
import uvloop

from serving.app import wall_clock
from serving.keys import Key, KeyFile, digest_of
from tests.e2e.harness import GUARDED, Running, gateway, npy
from tests.redis_server import DURABLE, redis_server

ROOT = Path(__file__).parents[2]
PATH = "/v1/models/mnist:predict"
BUDGET, SPENDERS, THIEVES = 2_000, 64, 2_000
NOISE = 40
"""Rows of a thief, more than any is answered."""
AGAIN_S = 0.02
"""Who is not answered asks again after it."""
DECIMALS = 3
"""What leaves is rounded to so many, and a clean answer is not."""
MODEL = GUARDED | {
    "queue": {"max_rows_per_request": BUDGET},
    "policy": [
        {"name": "normal", "defenses": ["rounding"]},
        {"name": "alarmed", "alarm": True, "defenses": ["label_only"], "deny_s": 86_400},
    ],
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of one row: when it ended, who asked, the status or 0, and what was answered."""

    at: float
    key: str
    row: int
    status: int
    answer: bytes = b""


@dataclass
class Crowd:
    """Clients, and the gateways that they ask, as a balancer would send them: those that are there, in turn."""

    targets: list[Running]
    thieves: list[str]
    spenders: Sequence[str]
    noise: Sequence[bytes]
    digit: bytes
    asked: list[Asked] = field(default_factory=list)
    stopped: bool = False

    async def attack(
        self, fault: Callable[[], None], connections: int, before: float, after: float
    ) -> float:
        """Ask until ``after`` seconds after the fault; returns when it struck."""
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            for number in range(connections):
                group.create_task((self._steal, self._spend)[number % 2](session, number))
            await asyncio.sleep(before)
            struck = perf_counter()
            await asyncio.to_thread(fault)
            await asyncio.sleep(after)
            self.stopped = True
        return struck

    async def _steal(self, session: aiohttp.ClientSession, number: int) -> None:
        """One account after the other, each until it is refused."""
        while not self.stopped:
            key, row = self.thieves.pop(), 0
            while row < NOISE and not self.stopped:
                status = await self._ask(session, number + row, key, row, self.noise[row])
                if status == 403:
                    break
                row += status == 200

    async def _spend(self, session: aiohttp.ClientSession, number: int) -> None:
        turn = number
        while not self.stopped:
            turn += 1
            await self._ask(session, turn, self.spenders[turn % SPENDERS], 0, self.digit)

    async def _ask(
        self, session: aiohttp.ClientSession, turn: int, key: str, row: int, body: bytes
    ) -> int:
        url = self.targets[turn % len(self.targets)].url + PATH
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/x-npy"}
        status, answer = 0, b""
        with suppress(aiohttp.ClientError, ConnectionError):
            async with session.post(url, data=body, headers=headers) as response:
                answer, status = await response.read(), response.status
        self.asked.append(Asked(perf_counter(), key, row, status, answer))
        if status not in (200, 403):
            await asyncio.sleep(AGAIN_S)
        return status


def rounded(answer: bytes) -> bool:
    """Whether an answer has been through the defense: no number has more than `DECIMALS` decimals."""
    (values,) = np.array(json.loads(answer)["predictions"])
    return bool(np.allclose(values, np.round(values, DECIMALS), rtol=0, atol=1e-7))


def costs(
    asked: Sequence[Asked],
    struck: float,
    *,
    alone: int,
    counted: Mapping[str, int],
    again: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """What the fault cost, from every request of the crowd.

    ``alone``: rows that a thief is answered where nothing fails; ``counted``: rows of those that spend, as the
    gateway has them at last; ``again``: what everybody who was refused before hears in the end.
    """
    asked = sorted(asked, key=lambda one: one.at)
    answered: Counter[str] = Counter()
    different: defaultdict[str, set[int]] = defaultdict(set)
    refused: set[str] = set()
    released = 0
    for one in asked:
        if one.status == 403:
            refused.add(one.key)
        elif one.status == 200:
            released += one.key in refused
            answered[one.key] += 1
            different[one.key].add(one.row)
    thieves = [len(rows) for key, rows in different.items() if key not in counted]
    failed = [one.at for one in asked if one.at > struck and one.status in (0, 503)]
    back = _back(asked, max(failed)) if failed else struck
    return {
        "requests a second before": round(_rate(asked, struck), 1),
        "statuses": {str(s): n for s, n in sorted(Counter(one.status for one in asked).items())},
        "not answered or 503, s": None if back is None else round(back - struck, 2),
        "thieves": len(thieves),
        "refused": len(refused),
        "rows of a thief where nothing fails": alone,
        "most rows of a thief": max(thieves, default=0),
        "thieves with more": sum(rows > alone for rows in thieves),
        "answered after the refusal": released
        + sum(status == 200 for key in refused for status in again[key]),
        "answers without defense": sum(
            one.status == 200 and not rounded(one.answer) for one in asked
        ),
        "rows of a budget answered": sum(answered[key] for key in counted),
        "rows of a budget counted": sum(counted.values()),
        "rows of a budget lost": sum(max(0, answered[k] - n) for k, n in counted.items()),
    }


def _rate(asked: Sequence[Asked], until: float) -> float:
    """Requests a second from the first one on."""
    times = [one.at for one in asked if one.at <= until]
    return len(times) / max(until - min(times, default=until), 1e-9)


def _back(asked: Sequence[Asked], last: float) -> float | None:
    """When the first request after the ``last`` that failed was answered, if ever."""
    return next((one.at for one in asked if one.at > last), None)


@dataclass(frozen=True)
class Setting:
    """How long, how many connections, and the pictures that are sent."""

    connections: int
    before: float
    after: float
    noise: Sequence[bytes]
    digit: bytes


def measure(setting: Setting) -> dict[str, Any]:
    """One record a fault."""
    faults = {
        "the gateway, on sqlite": _of_the_gateway,
        "Redis, under two replicas": _of_redis,
        "one of two replicas": _of_a_replica,
    }
    found = []
    for name, run in faults.items():
        with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
            found.append({"killed": name, **run(Path(folder), running, setting)})
    return {
        "machine": {"cores": os.cpu_count()},
        "settings": {
            "connections": setting.connections,
            "s before": setting.before,
            "s after": setting.after,
        },
        "faults": found,
    }


def _of_the_gateway(folder: Path, running: ExitStack, setting: Setting) -> dict[str, Any]:
    keys = _keys(folder / "state")
    start = _starter(folder, running, store="sqlite:///state.db", data_dir=str(folder / "state"))
    crowd = _crowd(keys, [start("first")], setting)

    def fault() -> None:
        crowd.targets[0].stop(9)
        crowd.targets[0] = start("anew")

    return _attacked(crowd, fault, setting)


def _of_redis(folder: Path, running: ExitStack, setting: Setting) -> dict[str, Any]:
    keys = _keys(folder / "state")
    redis = running.enter_context(redis_server(folder / "redis", *DURABLE))
    start = _starter(folder, running, store=redis.url)
    crowd = _crowd(keys, [start("first"), start("second")], setting)

    def fault() -> None:
        redis.kill()
        redis.start()

    return _attacked(crowd, fault, setting)


def _of_a_replica(folder: Path, running: ExitStack, setting: Setting) -> dict[str, Any]:
    keys = _keys(folder / "state")
    redis = running.enter_context(redis_server(folder / "redis", *DURABLE))
    start = _starter(folder, running, store=redis.url)
    crowd = _crowd(keys, [start("first"), start("second")], setting)

    def fault() -> None:
        doomed = crowd.targets[1]
        doomed.stop(9)
        crowd.targets.remove(doomed)

    return _attacked(crowd, fault, setting)


def _attacked(crowd: Crowd, fault: Callable[[], None], setting: Setting) -> dict[str, Any]:
    """The crowd asks, the fault strikes, and everybody who was refused asks once more."""
    alone = _alone(crowd)
    crowd.thieves.pop()
    attack = crowd.attack(fault, setting.connections, setting.before, setting.after)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        struck = runner.run(attack)
    refused = {one.key for one in crowd.asked if one.status == 403}
    with httpx.Client(trust_env=False, timeout=60, verify=False) as client:
        again = {
            key: [_post(client, one, key, crowd.noise[0]).status_code for one in crowd.targets]
            for key in refused
        }
        counted = {key: _counted(client, crowd.targets[0], key, crowd) for key in crowd.spenders}
    return costs(crowd.asked, struck, alone=alone, counted=counted, again=again)


def _alone(crowd: Crowd) -> int:
    """How many rows a thief is answered where nothing fails."""
    with httpx.Client(trust_env=False, timeout=60, verify=False) as client:
        for row, body in enumerate(crowd.noise):
            if _post(client, crowd.targets[0], crowd.thieves[-1], body).status_code == 403:
                return row
    raise SystemExit(f"{NOISE} rows of noise and no alarm; the benchmark needs one")


def _counted(client: httpx.Client, running: Running, key: str, crowd: Crowd) -> int:
    """Rows of its budget that a client has used, as a refusal tells it."""
    _post(client, running, key, crowd.digit)  # hears of what others counted
    whole = npy(np.zeros((BUDGET, 28, 28), np.float32))
    refused = _post(client, running, key, whole)
    if refused.status_code != 429:
        raise SystemExit(f"{BUDGET} rows of a budget of {BUDGET}: {refused.text[:200]}")
    left = refused.json()["error"].partition(f"{BUDGET} rows asked, ")[2].partition(" of")[0]
    return BUDGET - int(left) - 1


def _post(client: httpx.Client, running: Running, key: str, body: bytes) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/x-npy"}
    return client.post(running.url + PATH, content=body, headers=headers)


def _crowd(keys: Sequence[str], targets: list[Running], setting: Setting) -> Crowd:
    return Crowd(targets, list(keys[SPENDERS:]), keys[:SPENDERS], setting.noise, setting.digit)


def _starter(folder: Path, running: ExitStack, **changes: str) -> Callable[[str], Running]:
    """Starts a gateway with a folder of its own, and what all share."""

    def start(name: str) -> Running:
        config: dict[str, Any] = {
            "secret": "a secret that the replicas share",
            "identity": {"keys": str(folder / "state/keys.json")},
            "tiers": {"default": {"rows": f"{BUDGET}/day"}},
            "models": {"mnist": MODEL},
        }
        return running.enter_context(gateway(folder / name, config | changes))

    return start


def _keys(folder: Path) -> list[str]:
    """Keys of all clients, written at once."""
    texts = [f"benchmark-key-{number:04d}" for number in range(SPENDERS + THIEVES)]
    made = [
        Key(f"{number:08x}", f"client {number}", "default", digest_of(text), wall_clock())
        for number, text in enumerate(texts)
    ]
    path = KeyFile(folder / "keys.json").path
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"keys": [asdict(key) for key in made]}), encoding="utf-8")
    return texts


def _bodies() -> Iterator[bytes]:
    """`NOISE` rows of noise."""
    random = np.random.default_rng(0)
    for _ in range(NOISE):
        yield npy(random.random((1, 28, 28), dtype=np.float32))


def _digit() -> bytes:
    from PIL import Image

    with Image.open(ROOT / "configs/models/digit-7.png") as picture:
        return npy(np.asarray(picture.convert("L"), np.float32)[None] / 255)


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--before", type=float, default=8.0, help="seconds")
    parser.add_argument("--after", type=float, default=5.0, help="seconds")
    given = parser.parse_args()
    setting = Setting(given.connections, given.before, given.after, list(_bodies()), _digit())
    text = json.dumps(measure(setting), indent=1) + "\n"
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
