"""Does a store that remembers a million clients slow a query down?"""

import os
import sqlite3
import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from mantlet.types import Query
from serving.admission import client_id
from serving.build import load_pipeline
from serving.folding import Memory
from serving.settings import Settings
from serving.stores.base import pack
from serving.stores.sqlite import SCHEMA
from tests.benchmarks.serving import servers
from tests.benchmarks.serving.load import drive

ASKING = 500
"""Clients that take turns in asking; the others only fill the store."""
SECRET = "benchmark-secret-benchmark-secret"


def measure(folder: Path, total: int, seconds: float, rounds: int) -> dict[str, object]:
    """Requests a second with ``ASKING`` clients in the store and with ``total``, interleaved."""
    from tests.benchmarks.serving.__main__ import CALIBRATION, LENET, PREDICT, bodies, digits_of

    body = bodies(folder, "clients", digits_of(400)[:, None])["json"]
    model = {
        "victim": servers.torch_victim("lenet", LENET),
        "calibration": str(CALIBRATION),
        **servers.CHAIN_ON,
    }
    memory = pack(_memory(model, digits_of(10)))
    speeds: dict[str, list[float]] = {"few": [], "many": []}
    with ExitStack() as stack:
        running = {}
        for name, filled in (("few", 0), ("many", total)):
            home = folder / f"clients-{name}"
            home.mkdir()
            (home / "secret").write_text(SECRET)
            keys = [servers.create_key(home, f"client-{i}") for i in range(ASKING)]
            if filled:
                _fill(home / "state.db", filled, memory)
            running[name] = (stack.enter_context(servers.gateway(home, dict(model))), keys)
        for _ in range(rounds):
            for name, (server, keys) in running.items():
                speed = drive(
                    server.url + PREDICT,
                    body,
                    "application/json",
                    keys,
                    connections=32,
                    seconds=seconds,
                )
                speeds[name].append(speed.per_s)
    few, many = (statistics.median(speeds[name]) for name in ("few", "many"))
    return {
        "clients": {
            "in store": total,
            "taking turns": ASKING,
            "few per_s": round(few, 1),
            "many per_s": round(many, 1),
            "ratio": round(many / few, 3),
            "state bytes a client": len(memory),
        }
    }


def _fill(path: Path, total: int, memory: bytes) -> None:
    """Write ``total`` clients, those that will ask among them."""
    database = sqlite3.connect(path)
    database.executescript(SCHEMA)
    hour = int(os.stat(path).st_mtime // 3600)
    with Progress() as bar:
        task = bar.add_task(f"filling a store with {total} clients", total=total)
        for start in range(0, total, 20_000):
            names = range(start, min(start + 20_000, total))
            rows = ((f"model/{_id(i)}", 1, memory, hour) for i in names)
            with database:
                database.executemany("INSERT INTO clients VALUES (?, ?, ?, ?)", rows)
            bar.advance(task, len(names))
    database.close()


def _id(number: int) -> str:
    if number < ASKING:
        return client_id(SECRET.encode(), f"client-{number}")
    return blake2b(b"%d" % number, digest_size=16).hexdigest()


def _memory(model: Mapping[str, object], rows: np.ndarray) -> Memory:
    """What the chain remembers of a client after ten rows."""
    settings = Settings.model_validate({"secret": SECRET, "models": {"model": dict(model)}})
    pipeline = load_pipeline("model", settings.models["model"], settings)
    asked = Query(["client"] * len(rows), torch.from_numpy(rows), 0.0)
    return pipeline.run(asked, {}).memories["client"]
