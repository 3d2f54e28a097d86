"""One HTTP exchange on the hot path: bounded reading, plain writing, no request or response objects."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import orjson

from mantlet.errors import RequestError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
JSON = "application/json"


class Disconnected(Exception):
    """The client went away before its request was complete; nobody waits for an answer."""


def headers_of(scope: Scope) -> dict[str, str]:
    """Headers by lower-case name; of a repeated one the last counts."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


@dataclass(slots=True)
class Room:
    """``left`` bytes for bodies that are arriving, of all clients together; they leave it once they are whole."""

    left: int


async def read_body(
    receive: Receive, headers: Mapping[str, str], *, limit: int, timeout_s: float, room: Room
) -> bytes:
    """The body: 413 beyond ``limit`` bytes, before they are read where the length is announced; 408 when slow.

    503 where the bodies that arrive at once have no ``room``.
    """
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(receive, limit, room)
    except TimeoutError:
        raise RequestError(
            408,
            f"the body took over {timeout_s:g} s to arrive",
            reason="body_too_slow",
            headers={"Connection": "close"},
        ) from None


async def _read(receive: Receive, limit: int, room: Room) -> bytes:
    message = await receive()
    _refuse_disconnect(message)
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        return await _read_rest(receive, bytearray(body), limit, room)
    if len(body) > limit:
        raise _too_large(limit)
    return body


async def _read_rest(receive: Receive, body: bytearray, limit: int, room: Room) -> bytes:
    more, taken = True, 0
    try:
        while more:
            if len(body) > limit:
                raise _too_large(limit)
            room.left, taken = room.left - (len(body) - taken), len(body)
            if room.left < 0:
                raise _no_room()
            message = await receive()
            _refuse_disconnect(message)
            body += message.get("body", b"")
            more = message.get("more_body", False)
    finally:
        room.left += taken
    if len(body) > limit:
        raise _too_large(limit)
    return bytes(body)


def _refuse_disconnect(message: Message) -> None:
    if message["type"] == "http.disconnect":
        raise Disconnected


def _no_room() -> RequestError:
    return RequestError(
        503,
        "too many large bodies arrive at once; try again later",
        reason="bodies",
        headers={"Retry-After": "1", "Connection": "close"},
    )


def _too_large(limit: int) -> RequestError:
    return RequestError(
        413,
        f"the body is over the limit of {limit} bytes; send fewer rows a request",
        reason="body_too_large",
        headers={"Connection": "close"},
    )


async def reply(
    send: Send,
    body: bytes,
    *,
    status: int = 200,
    content_type: str = JSON,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Send a whole response."""
    raw = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    raw += [(k.lower().encode(), v.encode("latin-1")) for k, v in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


async def reply_json(send: Send, value: object) -> None:
    """Send a value as JSON; numpy arrays are written as nested lists."""
    await reply(send, orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


async def reply_ready(send: Send, about: Mapping[str, object]) -> None:
    """Send readiness: 200, or 503 with ``Retry-After``."""
    ready = bool(about["ready"])
    wait = {} if ready else {"Retry-After": "1"}
    await reply(send, orjson.dumps(about), status=200 if ready else 503, headers=wait)


async def reply_error(send: Send, error: RequestError) -> None:
    """Send ``{"error": text}`` with the status and headers that the error carries."""
    body = orjson.dumps({"error": str(error)})
    await reply(send, body, status=error.status, headers=error.headers)
