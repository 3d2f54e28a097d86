"""Starts the gateway as an operator does, in a process of its own, and looks at it from outside."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serving.app import wall_clock
from serving.keys import KeyFile
from tests import helpers

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "configs/models"
START_S = 90.0
TALE = re.compile(r"traceback|suspic|detector|alarm|file \"|line \d+, in", re.IGNORECASE)
"""What no answer to a client may tell."""

_SHIPPED = helpers.config(ROOT, Path())
TIERS: dict[str, Any] = _SHIPPED["tiers"]
"""Of the embedded default; the policy of `GUARDED` names them."""

GUARDED: dict[str, Any] = _SHIPPED["models"]["mnist"]
"""The chain of the embedded default."""

PLAIN: dict[str, Any] = {"victim": GUARDED["victim"]}
"""Its model without detectors and defenses."""

GENERATOR: dict[str, Any] = {
    "victim": {
        "type": "onnx",
        "weights": str(ROOT / "tests/data/models/mnist_gan_mlp_csinva.onnx"),
        "task": "generate",
        "output_range": [-1, 1],
    }
}
"""One that others trained, of 28x28 digits."""

OPEN: dict[str, Any] = {"identity": {"open": True}, "models": {"mnist": PLAIN}}


@dataclass
class Running:
    """A gateway in a process: where it listens, what it logs, what it counts."""

    process: "subprocess.Popen[bytes]"
    folder: Path
    keys: list[str] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)
    port: int = 0
    admin_port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_path(self) -> Path:
        return self.folder / "gateway.log"

    def log_lines(self) -> list[str]:
        """The whole lines: of one that is being written, only a part may be seen."""
        *lines, _ = self.log_path.read_text().split("\n")
        return lines

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log entries of one kind."""
        entries = [json.loads(line) for line in self.log_lines() if line.startswith("{")]
        return [entry for entry in entries if entry["event"] == name]

    def new_key(self) -> str:
        """A key of a client that has asked nothing yet."""
        return self.keys.pop()

    def client(self, key: str | None = None) -> httpx.Client:
        """An HTTP client; with a key, it is sent along."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        # no certificates are wanted, and to load them takes longer than most tests
        return httpx.Client(
            base_url=self.url, headers=headers, timeout=60, trust_env=False, verify=False
        )

    def total(self, sample: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        families = text_string_to_metric_families(self.metrics_text())
        return sum(
            s.value
            for family in families
            for s in family.samples
            if s.name == sample and labels.items() <= s.labels.items()
        )

    def metrics_text(self) -> str:
        url = f"http://127.0.0.1:{self.admin_port}/metrics"
        return httpx.get(url, trust_env=False, timeout=60, verify=False).raise_for_status().text

    def computed(self) -> tuple[float, float]:
        """How many rows were asked for, and how many forward passes were made."""
        passes = self.total("mantlet_stage_seconds_count", stage="predict")
        return self.total("mantlet_rows_total"), passes

    def wait_for(self, event: str) -> dict[str, Any]:
        """The first log entry of a kind; fails when the process ends before it comes."""
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            ended = self.process.poll()
            if found := self.events(event):
                return found[0]
            if ended is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no '{event}' in the log:\n{self.log_path.read_text()}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the process and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def gateway(
    folder: Path,
    config: Mapping[str, Any],
    *,
    clients: int = 0,
    tiers: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    until: str = "ready",
) -> Iterator[Running]:
    """Serve ``config`` from ``folder``, which keeps its state from one start to the next.

    ``clients`` keys are made for the default tier, and one a name in ``tiers``, found in ``named``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump({"data_dir": str(folder / "state"), **config}))
    keys = make_keys(folder, clients)
    file = key_file(folder)
    named = {n: file.create(n, tier, wall_clock())[0] for n, tier in (tiers or {}).items()}
    with serve(path, env=env) as running:
        running.keys, running.named = keys, named
        entry = running.wait_for("listening")
        running.port, running.admin_port = entry["port"], entry["admin_port"]
        running.wait_for(until)
        yield running


@contextmanager
def serve(
    config: Path, *sets: str, env: Mapping[str, str] | None = None, ports: Sequence[int] = (0, 0)
) -> Iterator[Running]:
    """The command ``mantlet serve``, without waiting for anything."""
    ours = [f"listen.port={ports[0]}", f"admin.port={ports[1]}", *sets]
    command = [sys.executable, "-m", "serving.cli", "serve", str(config)]
    with (config.parent / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *(part for text in ours for part in ("--set", text))],
            cwd=ROOT,
            stderr=log,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **(env or {})},
        )
    try:
        yield Running(process, config.parent)
    finally:
        with suppress(ProcessLookupError):  # how it ends well has tests of its own
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def key_file(folder: Path) -> KeyFile:
    """The keys of the gateway whose folder it is."""
    return KeyFile(folder / "state" / "keys.json")


def make_keys(folder: Path, count: int) -> list[str]:
    """Keys of as many new clients."""
    made = len(key_file(folder).all())
    names = [f"client-{made + number}" for number in range(count)]
    return [key_file(folder).create(name, "default", wall_clock())[0] for name in names]


def npy(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    """An array as the bytes of a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


def refusal(response: httpx.Response, status: int, telling: str) -> None:
    """The one form of errors: the status, ``{"error": text}`` with words that help, and no tales."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"

    said = response.json()

    assert list(said) == ["error"]
    assert telling in said["error"]
    assert not TALE.search(response.text)
    assert len(response.text) < 1000
    assert response.headers["x-request-id"]
    if status in (429, 503):
        assert int(response.headers["retry-after"]) >= 1


def raw(port: int, *pieces: bytes, read: int = 1) -> list[tuple[int, dict[str, str], bytes]]:
    """Send bytes as they are, and read answers until ``read`` have come or the connection ends."""
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break  # refused before it was all sent; the answer is still to be read
        return read_answers(connection, read)


def read_answers(connection: socket.socket, count: int) -> list[tuple[int, dict[str, str], bytes]]:
    """Up to ``count`` answers of a connection."""
    answers = []
    stream = connection.makefile("rb")
    for _ in range(count):
        if not stream.peek(1):
            break
        response = HTTPResponse(_Reads(stream))  # type: ignore[arg-type]
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        answers.append((response.status, headers, response.read()))
    return answers


class _Reads:
    """What `HTTPResponse` wants of a socket."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream

    def makefile(self, mode: str) -> io.BufferedReader:
        return _Unclosed(self._stream)  # type: ignore[return-value]


class _Unclosed:
    """A stream that stays open after an answer, for the next one."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close(self) -> None:
        """Not yet."""

    def flush(self) -> None:
        """Nothing to write."""


def error_of(answer: tuple[int, dict[str, str], bytes]) -> str:
    """The text of a raw refusal."""
    status, headers, body = answer
    said = json.loads(body)

    assert status >= 400
    assert headers["content-type"] == "application/json"
    assert list(said) == ["error"]
    return str(said["error"])
