"""Starts the servers that are compared, each in a process of its own, on free ports."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from serving.gateway import STAGES
from tests import helpers

ROOT = Path(__file__).parents[3]
CHAIN_ON = {
    "detectors": [{"type": "foreign"}, {"type": "rate", "rows": 10**12}],
    "defenses": [{"type": "rounding"}],
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it listens, its process, and where its metrics are."""

    url: str
    process: "subprocess.Popen[bytes]"
    metrics_url: str = ""

    @property
    def memory_mb(self) -> float:
        """Peak resident memory so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024


@contextmanager
def bare(architecture: str, weights: Path) -> Iterator[Server]:
    """The FastAPI application that people write."""
    port = free_port()
    command = ["-m", "tests.benchmarks.serving.bare", str(port), architecture, str(weights)]
    with _running(command, port, "/docs") as server:
        yield server


@contextmanager
def gateway(folder: Path, model: dict[str, object]) -> Iterator[Server]:
    """Our gateway with keys on and a SQLite store, for one model; ``folder`` holds its state."""
    port, admin = free_port(), free_port()
    config = folder / "gateway.yaml"
    settings = {
        "listen": {"port": port},
        "admin": {"port": admin},
        "data_dir": str(folder),
        "log_level": "warning",
        "tiers": {"default": {"requests": "1000000/second", "rows": "1000000000/day"}},
        "models": {"model": model},
    }
    config.write_text(yaml.safe_dump(settings))
    command = ["-m", "serving.cli", "serve", str(config)]
    with _running(command, port, "/v2/health/ready") as server:
        yield replace(server, metrics_url=f"http://127.0.0.1:{admin}/metrics")


def stages(server: Server) -> dict[str, float]:
    """Where a gateway's time went so far: milliseconds of each stage a batch, and rows a batch."""
    with urllib.request.urlopen(server.metrics_url, timeout=5) as answer:
        text = answer.read().decode()
    found = dict(re.findall(r"^(\S+) (\S+)$", text, re.MULTILINE))
    name = 'mantlet_stage_seconds_{}{{model="model",stage="{}"}}'
    means = {
        f"{stage} ms": 1e3
        * float(found[name.format("sum", stage)])
        / float(found[name.format("count", stage)])
        for stage in STAGES
        if float(found[name.format("count", stage)])  # nothing is explained here
    }
    rows, batches = (
        float(found[f'mantlet_batch_rows_{kind}{{model="model"}}']) for kind in ("sum", "count")
    )
    return {k: round(v, 3) for k, v in means.items()} | {"rows a batch": round(rows / batches, 1)}


def shipped_model() -> dict[str, object]:
    """The embedded default with all its detectors, at a level that never changes."""
    model = helpers.config(ROOT, Path())["models"]["mnist"]
    kept = {name: model[name] for name in ("detectors", "defenses", "victim", "calibration")}
    return {**kept, "policy": [{"name": "normal", "defenses": ["rounding"]}]}


def torch_victim(architecture: str, weights: Path) -> dict[str, object]:
    """Settings of a torch victim."""
    return {"type": "torch", "weights": str(weights), "architecture": architecture}


def create_key(folder: Path, client: str) -> str:
    """A key in the folder's keys file."""
    from serving.keys import KeyFile

    return KeyFile(folder / "keys.json").create(client, "default", 0.0)[0]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(arguments: Sequence[str], port: int, health: str) -> Iterator[Server]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.Popen([sys.executable, *arguments], env=environment, cwd=ROOT)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url + health, process)
        yield Server(url, process)
    finally:
        process.terminate()
        process.wait(30)


def _wait(url: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise SystemExit(f"the server of {url} ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"{url} is not ready after 60 s")


def versions() -> dict[str, str]:
    """What was compared, for the record."""
    from importlib.metadata import version

    names = ("mantlet", "fastapi", "uvicorn", "torch", "onnxruntime", "orjson", "uvloop")
    return {name: version(name) for name in names} | {"python": sys.version.split()[0]}


def dump(path: Path, results: object) -> None:
    """Write results as JSON, sorted, so that two runs can be compared."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
