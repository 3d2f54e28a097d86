"""The serving benchmark: our gateway against what people write, in one run, interleaved.

Run as: python -m tests.benchmarks.serving --out docs/results/serving.json
"""

import argparse
import io
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from rich.progress import Progress

from mantlet import architectures, weights
from tests.benchmarks.serving import clients, servers
from tests.benchmarks.serving.load import Measured, drive, require_wrk

MODELS = servers.ROOT / "configs/models"
LENET = MODELS / "mnist-ini.safetensors"
CALIBRATION = MODELS / "mnist-ini.calibration.safetensors"
CONNECTIONS = (1, 8, 32, 64)
MEDIA = {"json": "application/json", "npy": "application/x-npy"}
PREDICT = "/v1/models/model:predict"
DIFFERENT = 400
"""Requests with other rows: more than the gateway knows again, for a row that is asked again is no work."""
ROWS = 32
"""Rows of one request, where a micro-batch is to have so many."""
Run = Callable[[], Measured]
AT_LEAST = {
    "json 32: gateway / bare": 3.0,
    "npy 32: gateway / bare": 3.5,
    "json 32: chain on / chain off": 0.85,
    "npy 32: chain on / chain off": 0.85,
    "json, 32 rows a batch: all detectors / chain off": 0.8,
    "npy, 32 rows a batch: all detectors / chain off": 0.8,
    "resnet json 32: gateway / bare": 1.8,
    "json 32: proxy / model inside": 0.5,
    "many clients / few": 0.8,
}
AT_MOST = {
    "json 32: p99 gateway / bare": 0.25,
    "npy 32: p99 gateway / bare": 0.25,
    "json 1: p50 gateway / bare": 1.0,
    "npy 1: p50 gateway / bare": 1.0,
    "memory MB": 450,
    "state bytes a client": 4096,
}
"""What we hold ourselves to; the results name what is missed."""


def main() -> None:
    """Measure every case in every round, then write medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each run")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clients", type=int, default=1_000_000, help="in the filled store")
    given = parser.parse_args()
    require_wrk()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        cases, gateway = start(stack, folder, given.seconds)
        seen = rounds(cases, given.rounds)
        results = {
            "machine": {"cpu": cpu(), "cores": os.cpu_count(), "system": platform.platform()},
            "settings": {"seconds": given.seconds, "rounds": given.rounds},
            "versions": servers.versions(),
            "cases": {name: asdict(median(runs)) for name, runs in seen.items()},
            "memory_mb": round(gateway.memory_mb, 1),
            "stages": servers.stages(gateway),
        }
        stack.close()
        results |= clients.measure(folder, given.clients, given.seconds, given.rounds)
        results["ratios"] = ratios(seen)
        results["missed"] = missed(results)
        servers.dump(given.out, results)


def start(stack: ExitStack, folder: Path, seconds: float) -> tuple[dict[str, Run], servers.Server]:
    """Start all servers; return what to measure, and the gateway with the whole chain."""
    residual = folder / "resnet.safetensors"
    with torch.random.fork_rng():
        weights.save(architectures.build("resnet", {}), residual, {})
    digits = bodies(folder, "digit", digits_of(DIFFERENT)[:, None])
    many = bodies(folder, "digits", digits_of(DIFFERENT * ROWS).reshape(-1, ROWS, 1, 28, 28))
    colours = np.random.default_rng(0).random((DIFFERENT, 1, 3, 32, 32), np.float32)
    pixels = bodies(folder, "pixels", colours)

    def ours(name: str, model: Mapping[str, object]) -> tuple[servers.Server, str]:
        home = folder / name
        home.mkdir()
        key = servers.create_key(home, "bench")
        return stack.enter_context(servers.gateway(home, dict(model))), key

    lenet = {"victim": servers.torch_victim("lenet", LENET)}
    chain = {**lenet, "calibration": str(CALIBRATION), **servers.CHAIN_ON}
    bare = stack.enter_context(servers.bare("lenet", LENET))
    bare_residual = stack.enter_context(servers.bare("resnet", residual))
    on, key_on = ours("on", chain)
    off, key_off = ours("off", lenet)
    full, key_full = ours("full", servers.shipped_model())
    inner, key_inner = ours("inner", lenet)
    upstream = {
        "type": "upstream",
        "url": inner.url,
        "model": "model",
        "headers": {"X-API-Key": key_inner},
    }
    proxy, key_proxy = ours("proxy", {"victim": upstream})
    big, key_big = ours("big", {"victim": servers.torch_victim("resnet", residual)})

    def run(url: str, body: tuple[str, Path], key: str, connections: int) -> Run:
        kind, path = body
        return lambda: drive(
            url, path, MEDIA[kind], [key], connections=connections, seconds=seconds
        )

    cases: dict[str, Run] = {}
    for connections in CONNECTIONS:
        for kind, path in digits.items():
            route = "/predict" if kind == "json" else "/predict-npy"
            label = f"{kind} {connections}"
            cases[f"bare {label}"] = run(bare.url + route, (kind, path), "", connections)
            cases[f"gateway {label}"] = run(on.url + PREDICT, (kind, path), key_on, connections)
            cases[f"chain off {label}"] = run(off.url + PREDICT, (kind, path), key_off, connections)
            cases[f"all detectors {label}"] = run(
                full.url + PREDICT, (kind, path), key_full, connections
            )
    for kind, path in many.items():
        for name, server, key in (("chain off", off, key_off), ("all detectors", full, key_full)):
            body = (kind, path)
            cases[f"{name} {kind} {ROWS} rows"] = run(server.url + PREDICT, body, key, 1)
    json_digit, json_pixels = ("json", digits["json"]), ("json", pixels["json"])
    cases["proxy json 32"] = run(proxy.url + PREDICT, json_digit, key_proxy, 32)
    cases["bare resnet json 32"] = run(bare_residual.url + "/predict", json_pixels, "", 32)
    cases["gateway resnet json 32"] = run(big.url + PREDICT, json_pixels, key_big, 32)
    return cases, on


def digits_of(count: int) -> np.ndarray:
    """The first test pictures of MNIST (n, 1, 28, 28), again from the first where there are no more."""
    with np.load(servers.ROOT / "tests/data/mnist-test.npz") as data:
        pictures = data["x_test"][:, None].astype(np.float32) / 255
    first: np.ndarray = pictures[np.arange(count) % len(pictures)]
    return first


def bodies(folder: Path, name: str, requests: np.ndarray) -> dict[str, Path]:
    """The rows of each request as JSON and as .npy, in two folders of files that wrk reads."""
    paths = {kind: folder / f"{name}-{kind}" for kind in MEDIA}
    for path in paths.values():
        path.mkdir()
    for number, rows in enumerate(requests):
        buffer = io.BytesIO()
        np.save(buffer, rows)
        text = orjson.dumps({"instances": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
        (paths["json"] / f"{number:04}").write_bytes(text)
        (paths["npy"] / f"{number:04}").write_bytes(buffer.getvalue())
    return paths


def rounds(cases: Mapping[str, Run], count: int) -> dict[str, list[Measured]]:
    """Every case once a round, forwards and backwards in turn."""
    seen: dict[str, list[Measured]] = {name: [] for name in cases}
    with Progress() as bar:
        task = bar.add_task("measuring", total=count * len(cases))
        for number in range(count):
            for name, run in list(cases.items())[:: -1 if number % 2 else 1]:
                bar.update(task, description=name)
                seen[name].append(run())
                bar.advance(task)
    return seen


def median(runs: Sequence[Measured]) -> Measured:
    """Of each number by itself."""
    return Measured(
        per_s=round(statistics.median(r.per_s for r in runs), 1),
        p50_ms=round(statistics.median(r.p50_ms for r in runs), 3),
        p99_ms=round(statistics.median(r.p99_ms for r in runs), 3),
    )


def ratios(seen: Mapping[str, Sequence[Measured]]) -> dict[str, float]:
    """What the claims are about; above 1 the gateway does better, but for latency shares.

    Each is the median of the ratios within a round: a machine that is slower for a while slows both.
    """

    def of(field: str, one: str, other: str) -> float:
        pairs = zip(seen[one], seen[other], strict=True)
        return round(statistics.median(getattr(a, field) / getattr(b, field) for a, b in pairs), 3)

    faster, middle, slowest = (partial(of, field) for field in ("per_s", "p50_ms", "p99_ms"))
    named = {
        "json 32: gateway / bare": faster("gateway json 32", "bare json 32"),
        "npy 32: gateway / bare": faster("gateway npy 32", "bare json 32"),
        "npy 32: gateway / bare with a route for npy": faster("gateway npy 32", "bare npy 32"),
        "json 32: chain on / chain off": faster("gateway json 32", "chain off json 32"),
        "npy 32: chain on / chain off": faster("gateway npy 32", "chain off npy 32"),
        "resnet json 32: gateway / bare": faster("gateway resnet json 32", "bare resnet json 32"),
        "json 32: proxy / model inside": faster("proxy json 32", "chain off json 32"),
    }
    for kind in MEDIA:
        named[f"{kind} 32: all detectors / chain off"] = faster(
            f"all detectors {kind} 32", f"chain off {kind} 32"
        )
        named[f"{kind}, {ROWS} rows a batch: all detectors / chain off"] = faster(
            f"all detectors {kind} {ROWS} rows", f"chain off {kind} {ROWS} rows"
        )
        named[f"{kind} 32: p99 gateway / bare"] = slowest(f"gateway {kind} 32", "bare json 32")
        named[f"{kind} 1: p50 gateway / bare"] = middle(f"gateway {kind} 1", "bare json 1")
    named["npy 1: p50 gateway / bare with a route for npy"] = middle("gateway npy 1", "bare npy 1")
    return named


def missed(results: Mapping[str, Any]) -> list[str]:
    """The floors and ceilings that the results do not keep."""
    clients = results["clients"]
    found = dict(results["ratios"]) | {
        "many clients / few": clients["ratio"],
        "memory MB": results["memory_mb"],
        "state bytes a client": clients["state bytes a client"],
    }
    low = [f"{k}: {found[k]}, at least {v} wanted" for k, v in AT_LEAST.items() if found[k] < v]
    high = [f"{k}: {found[k]}, at most {v} wanted" for k, v in AT_MOST.items() if found[k] > v]
    return low + high


def cpu() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
