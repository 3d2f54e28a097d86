"""The HTTP parser's bounds that uvicorn lacks: header size, header count, time to send headers."""

import asyncio
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.settings import Listen


class BoundedProtocol(HttpToolsProtocol):
    """Answers 431 to too many or too large headers, 408 to slow ones, 503 beyond the connection limit.

    Subclassed with ``bounds`` set; see `bounded`. A connection that sends nothing is closed without
    a word. Content-Length together with Transfer-Encoding is malformed and answered with 400.
    """

    bounds: Listen

    _head_bytes = 0
    _in_head = True
    _refused = False
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if len(self.connections) > self.bounds.max_connections:
            self._refuse(503, "too many connections; try again later")
            return
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head or self._refused:
            return
        if self._head_bytes > self.bounds.max_header_bytes:
            self._too_large()
        elif self._patience is None and self._head_bytes:
            self._wait_for_headers()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._check_size()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._check_size()

    def _check_size(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.bounds.max_header_bytes or len(self.headers) > self.bounds.max_headers:
            self._too_large()
            raise httptools.HttpParserError("headers over the limit")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head_bytes = 0  # what follows in the same packet is counted by its own headers
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if not self._refused:
            self._refuse(400, "this is no HTTP/1.1 request")

    def _too_large(self) -> None:
        limits = f"{self.bounds.max_headers} headers and {self.bounds.max_header_bytes} bytes"
        self._refuse(431, f"the headers are over the limit of {limits}")

    def _wait_for_headers(self) -> None:
        self._patience = self.loop.call_later(self.bounds.header_timeout_s, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _too_slow(self) -> None:
        if self._head_bytes:
            self._refuse(408, f"the headers took over {self.bounds.header_timeout_s:g} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        body = orjson.dumps({"error": message})
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        self.transport.close()


def bounded(listen: Listen) -> type[asyncio.Protocol]:
    """A protocol class for uvicorn's ``http`` setting, with these bounds."""
    attributes: dict[str, Any] = {"bounds": listen}
    return type("BoundedHttp", (BoundedProtocol,), attributes)
