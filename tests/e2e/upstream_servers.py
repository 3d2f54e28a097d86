"""A server that stands behind a gateway in the tests, and misbehaves as it is told to."""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

import numpy as np

PATIENCE_S = 60.0
METADATA: dict[str, Any] = {
    "name": "m",
    "versions": ["7"],
    "platform": "test",
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}],
}
SCORES = [0.7, 0.2, 0.1]


@dataclass(frozen=True)
class Asked:
    """A request as it came: ``rows`` of a V1 or V2 body."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        length = self.headers.get("inference-header-content-length")
        loaded: dict[str, Any] = json.loads(self.body[: int(length)] if length else self.body)
        return loaded

    @property
    def rows(self) -> np.ndarray:
        asked = self.json
        if "instances" in asked:
            return np.array(asked["instances"], np.float32)
        tensor = asked["inputs"][0]
        length = self.headers.get("inference-header-content-length")
        if length is None:
            return np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        return np.frombuffer(self.body[int(length) :], "<f4").reshape(tensor["shape"])


Answer = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def response(body: bytes, *, status: int = 200, **headers: str) -> bytes:
    """A whole HTTP response; ``headers`` by name, with ``_`` for ``-``."""
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} Text", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def saying(body: object, **settings: Any) -> Answer:
    """An answer of JSON, or of bytes as they are."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(response(raw, **settings))

    return answer


async def honest(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """The right answer: the same three probabilities for every row, in the form asked for.

    What explains a row is the row.
    """
    count = len(asked.rows)
    if asked.path.endswith(":explain"):
        writer.write(response(json.dumps({"explanations": asked.rows.tolist()}).encode()))
        return
    if asked.path.startswith("/v1"):
        writer.write(response(json.dumps({"predictions": [SCORES] * count}).encode()))
        return
    output: dict[str, Any] = {"name": "scores", "datatype": "FP32", "shape": [count, 3]}
    wanted = asked.json.get("outputs", [{}])[0].get("parameters", {})
    if not wanted.get("binary_data"):
        body = {"model_name": "m", "outputs": [output | {"data": SCORES * count}]}
        writer.write(response(json.dumps(body).encode()))
        return
    raw = np.tile(np.array(SCORES, "<f4"), count).tobytes()
    output["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({"model_name": "m", "outputs": [output]}).encode()
    writer.write(
        response(
            head + raw,
            Content_Type="application/octet-stream",
            Inference_Header_Content_Length=str(len(head)),
        )
    )


async def silent(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """No answer, ever."""
    await asyncio.Event().wait()


async def dripping(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A byte at a time, for ever."""
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    )
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def breaking_off(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Closes the connection in the middle of its answer."""
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"outputs": [')
    await writer.drain()
    writer.close()


async def hanging_up(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Reads the request and closes the connection without a word."""
    writer.close()


async def endless(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Sends zeros as long as anybody reads them."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + b"0" * 0x10000 + b"\r\n"
    with suppress(ConnectionError):
        while True:
            writer.write(piece)
            await writer.drain()


async def closing_afterwards(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """The right answer, kept alive in words; and then the connection is closed."""
    await honest(asked, writer)
    await writer.drain()
    writer.close()


@dataclass
class HostileServer:
    """A V2 and V1 server of a model with 4 features and 3 classes, which answers as it is told to.

    ``metadata`` and ``about`` answer the questions before a prediction, ``answer`` the predictions.
    ``posts`` and ``connections`` remember what came. Runs in a thread with a loop of its own.
    """

    answer: Answer = honest
    metadata: Answer = field(default_factory=lambda: saying(METADATA))
    about: Answer = field(
        default_factory=lambda: saying({"name": "t", "extensions": ["binary_tensor_data"]})
    )
    port: int = 0
    posts: list[Asked] = field(default_factory=list)
    gets: list[Asked] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = self._do(asyncio.start_server(self._connected, "127.0.0.1", self.port))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port and every connection; may be called twice."""
        if self._loop.is_closed():
            return
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    async def _end(self) -> None:
        self._server.close()
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for writer in self._writers:
            writer.close()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        self._tasks.add(self._loop.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                asked = await _read(reader)
                await self._answer_to(asked)(asked, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()

    def _answer_to(self, asked: Asked) -> Answer:
        if asked.method == "POST":
            self.posts.append(asked)
            return self.answer
        self.gets.append(asked)
        return self.about if asked.path == "/v2" else self.metadata


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    return Asked(
        method, path, headers, await reader.readexactly(int(headers.get("content-length", 0)))
    )


def free_port() -> int:
    """A port that nobody listens on, as the system chose it a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(true: Callable[[], object], what: str) -> None:
    """Look until it is true; a machine under load gets a minute."""
    end = monotonic() + PATIENCE_S
    while not true():
        assert monotonic() < end, f"waited {PATIENCE_S} s for {what}"
        sleep(0.05)
