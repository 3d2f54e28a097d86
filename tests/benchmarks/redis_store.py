"""What a batch costs in a Redis that holds a hundred clients, and in one that holds a hundred thousand.

``python -m tests.benchmarks.redis_store --out docs/results/redis.json`` starts both, fills them with memories
of about 5 KB, and times batches in turns, so that the ratio holds although the machine is not quiet.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from serving.app import wall_clock
from serving.folding import Memory
from serving.stores.base import Entry, pack
from serving.stores.redis import RedisStore
from tests.redis_server import DURABLE, Server, redis_server

FEW, CLIENTS_A_BATCH, FILL = 100, 16, 500
REMEMBER_S = 180 * 86_400.0
FSYNC = {"always": DURABLE, "everysec": (*DURABLE[:2], "--appendfsync", "everysec")}


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--batches", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    text = json.dumps(measure(options.clients, options.batches, options.seed), indent=1) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def measure(clients: int, batches: int, seed: int) -> dict[str, Any]:
    """One record a setting of ``appendfsync``, and what they have in common."""
    random = np.random.default_rng(seed)
    return {
        "machine": {"cores": os.cpu_count()},
        "settings": {
            "clients": [FEW, clients],
            "clients a batch": CLIENTS_A_BATCH,
            "batches": batches,
            "seed": seed,
            "bytes of a memory": len(pack(memory(random))),
        },
        "appendfsync": {
            name: compare(options, clients, batches, random) for name, options in FSYNC.items()
        },
    }


def compare(
    options: Sequence[str], clients: int, batches: int, random: np.random.Generator
) -> dict[str, Any]:
    """Median milliseconds of a batch with few and with many clients, in turns."""
    sizes = (FEW, clients)
    with ExitStack() as running:
        opened = [running.enter_context(filled(options, size, random)) for size in sizes]
        for server, _ in opened:
            wait_for_rewrite(server)
        seconds = np.array(
            [
                [batch(store, size, random) for size, (_, store) in zip(sizes, opened, strict=True)]
                for _ in range(batches)
            ]
        )  # (batches, 2, 2): few and many clients, load and swap
        server, store = opened[1]
        started = perf_counter()
        found = sum(1 for _ in store.scan(""))
        scan_s = perf_counter() - started
        with server.client() as client:
            used = client.info("memory")["used_memory"]
    assert found == clients, f"{found} of {clients} clients are there"
    few, many = np.median(seconds, axis=0) * 1000
    return {
        "load ms": [round(few[0], 3), round(many[0], 3)],
        "swap ms": [round(few[1], 3), round(many[1], 3)],
        "ratio of load and swap": round(many.sum() / few.sum(), 3),
        "bytes of Redis a client": round(used / clients),
        "scan s": round(scan_s, 2),
    }


@contextmanager
def filled(
    options: Sequence[str], clients: int, random: np.random.Generator
) -> Iterator[tuple[Server, RedisStore]]:
    """A Redis that holds so many clients, and a store on it."""
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder), *options) as server:
        store = RedisStore(server.url, wall_clock, REMEMBER_S)
        for start in range(0, clients, FILL):
            keys = [f"mnist/{number:032x}" for number in range(start, min(start + FILL, clients))]
            store.swap_many({key: Entry(0, memory(random)) for key in keys}, wall_clock())
        yield server, store
        store.close()


def wait_for_rewrite(server: Server) -> None:
    """Until Redis has written its file anew, which the filling made it begin."""
    with server.client() as client:
        while client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.1)


def memory(random: np.random.Generator) -> Memory:
    """About 5 KB that do not compress: evidence, histograms, sketches and a history."""
    return {
        "evidence": {"wealth": random.random((6, 16)), "rows": random.integers(0, 999, 8)},
        "coverage": {"buckets": random.integers(0, 2**63, 256)},
        "similarity": {"sketch": random.random((32, 10), dtype=np.float32)},
        "history": {"suspicion": random.random((64, 2), dtype=np.float32)},
        "policy": {"denied_until": random.random(1)},
    }


def batch(store: RedisStore, clients: int, random: np.random.Generator) -> tuple[float, float]:
    """Seconds of the load and of the swap of some clients, with a counter for each."""
    chosen = random.choice(clients, CLIENTS_A_BATCH, replace=False)
    keys = [f"mnist/{number:032x}" for number in chosen]
    for key in keys:
        store.counters.incr(key, 86_400)
    started = perf_counter()
    entries = store.load_many(keys, wall_clock())
    loaded = perf_counter()
    assert all(entry.version for entry in entries.values())
    lost = store.swap_many(entries, wall_clock())
    assert not lost
    return loaded - started, perf_counter() - loaded


if __name__ == "__main__":
    main()
