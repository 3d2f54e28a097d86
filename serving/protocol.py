"""The HTTP parser's bounds that uvicorn lacks: header size, header count, time to send headers."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.settings import Listen

PIPELINED = 64
"""Requests of a connection that may wait for the one that is answered; each takes forty times its bytes."""


class BoundedProtocol(HttpToolsProtocol):
    """Answers 431 to too many or too large headers, 408 to slow ones, 503 beyond the connection limit.

    Subclassed with ``bounds`` set; see `bounded`. A connection that sends nothing is closed without
    a word, and so is one that takes nothing of its answers, or asks on and on without waiting for them.
    Content-Length together with Transfer-Encoding is malformed and answered with 400. Trailers are no headers.
    """

    bounds: Listen

    _head_bytes = 0
    _in_head = True
    _begun = False
    _refused = False
    _patience: asyncio.TimerHandle | None = None
    _look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if len(self.connections) > self.bounds.max_connections:
            self._refuse(503, "too many connections; try again later", b"retry-after: 1\r\n")
            return
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_looking()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._see_taken(math.inf)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_looking()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._see_taken(math.inf)

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def _close(self) -> None:
        self.transport.close()
        self._see_taken(math.inf)

    def _see_taken(self, before: float) -> None:
        """Give a connection up that took nothing of what waits for it: nothing else would ever end it."""
        self._stop_looking()
        left = self.transport.get_write_buffer_size()
        if left >= before:
            self.transport.abort()
        elif left:
            self._look = self.loop.call_later(self.bounds.body_timeout_s, self._see_taken, left)

    def _stop_looking(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse(400, "this is no HTTP/1.1 request")
            return
        if self._in_head and self._head_bytes > self.bounds.max_header_bytes:
            self._too_large()
        elif self._patience is None:
            self._wait_for_the_rest()

    def _wait_for_the_rest(self) -> None:
        """Of headers, or of a body that nobody reads since its request was answered without it."""
        if self._in_head and (self._begun or self._head_bytes):
            self._wait_for_headers()
        elif not self._in_head and self.cycle.response_complete:
            self._wait(self.bounds.body_timeout_s, self._close)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Serve a request that offers HTTP/2 as if it did not; the parser would lose its body."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(400, "this is no proxy")
            return
        kept = [h for h in self.headers if h[0] not in (b"upgrade", b"connection")]
        self.parser = httptools.HttpRequestParser(self)
        self._head_bytes = 0
        lines = [b"%s %s HTTP/1.1" % (method, self.url), *(b"%s: %s" % h for h in kept), b"", rest]
        self.data_received(b"\r\n".join(lines))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun = True

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
        if self.parser.should_upgrade():
            return
        if len(self.pipeline) >= PIPELINED:
            self._refuse(429, "too many requests wait on this connection")
            raise httptools.HttpParserError("too many requests at once")
        self._in_head = self._begun = False
        self._stop_waiting()
        # a copy: the parser adds trailers to its own, and whoever trusts a header does not mean them
        self.scope["headers"] = self.headers.copy()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._head_bytes = 0  # what follows in the same packet is counted by its own headers
        self._in_head = True
        super().on_message_complete()
        if self.cycle.response_complete:  # uvicorn began to wait when it answered, not now
            self._stop_waiting()
            self._wait_for_headers()

    def _too_large(self) -> None:
        limits = f"{self.bounds.max_headers} headers and {self.bounds.max_header_bytes} bytes"
        self._refuse(431, f"the headers are over the limit of {limits}")

    def _wait_for_headers(self) -> None:
        self._wait(self.bounds.header_timeout_s, self._too_slow)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._patience = self.loop.call_later(seconds, then)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _too_slow(self) -> None:
        if self._begun:
            self._refuse(408, f"the headers took over {self.bounds.header_timeout_s:g} s")
        else:
            self._close()

    def _refuse(self, status: int, message: str, header: bytes = b"") -> None:
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        if self._in_head and self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # earlier requests are answered first; then it ends
            return
        body = orjson.dumps({"error": message})
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n"
        self.transport.write(STATUS_LINE[status] + header + head % len(body) + b"\r\n" + body)
        self._close()


def bounded(listen: Listen) -> type[asyncio.Protocol]:
    """A protocol class for uvicorn's ``http`` setting, with these bounds."""
    attributes: dict[str, Any] = {"bounds": listen}
    return type("BoundedHttp", (BoundedProtocol,), attributes)
