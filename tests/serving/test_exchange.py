"""Bounded reading and plain writing."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import orjson
import pytest

from mantlet.errors import RequestError
from serving import exchange
from serving.exchange import Disconnected, Message, Room, read_body


def receiving(*messages: Message) -> Callable[[], Awaitable[Message]]:
    """A client that sends these messages and then falls silent."""
    left = list(messages)

    async def receive() -> Message:
        if not left:
            await asyncio.sleep(3600)
        return left.pop(0)

    return receive


def pieces(*parts: bytes, whole: bool = True) -> list[Message]:
    return [
        {"type": "http.request", "body": part, "more_body": number < len(parts) or not whole}
        for number, part in enumerate(parts, 1)
    ]


def read(messages: Sequence[Message], headers: dict[str, str] | None = None) -> bytes:
    receive = receiving(*messages)
    return asyncio.run(read_body(receive, headers or {}, limit=10, timeout_s=0.05, room=Room(10)))


def refused(messages: Sequence[Message], headers: dict[str, str] | None = None) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read(messages, headers)
    return caught.value


def test_a_body_in_pieces_is_joined() -> None:
    assert read(pieces(b"abc", b"", b"def")) == b"abcdef"


def test_bodies_that_arrive_at_once_have_one_room_together() -> None:
    room = Room(25)

    async def some(*parts: bytes) -> bytes | int:
        try:
            receive = receiving(*pieces(*parts, whole=len(parts) > 1))
            return await read_body(receive, {}, limit=10, timeout_s=0.2, room=room)
        except RequestError as error:
            return error.status

    async def all_at_once() -> list[bytes | int]:
        return [*await asyncio.gather(*(some(b"a" * 10) for _ in range(3)), some(b"abc", b"def"))]

    assert asyncio.run(all_at_once()) == [408, 408, 503, b"abcdef"]
    assert asyncio.run(some(b"a" * 9, b"b")) == b"a" * 9 + b"b"
    assert room.left == 25


def test_a_body_of_just_the_limit_is_read() -> None:
    assert read(pieces(b"a" * 10)) == b"a" * 10
    assert read(pieces(b"a" * 9, b"b")) == b"a" * 9 + b"b"


@pytest.mark.parametrize("parts", [[b"a" * 11], [b"a" * 10, b"b"], [b"a"] * 11])
def test_a_body_over_the_limit_is_refused_however_it_comes(parts: list[bytes]) -> None:
    error = refused(pieces(*parts))

    assert error.status == 413
    assert "over the limit of 10 bytes" in str(error)


def test_an_announced_body_over_the_limit_is_refused_unread() -> None:
    assert refused([], {"content-length": "11"}).status == 413


def test_an_endless_body_is_refused_at_the_limit() -> None:
    assert refused(pieces(*[b"a"] * 11, whole=False)).status == 413


@pytest.mark.parametrize("begun", [[], pieces(b"a", whole=False)], ids=["silent", "begun"])
def test_a_body_that_stops_coming_is_refused(begun: list[Message]) -> None:
    error = refused(begun)

    assert error.status == 408
    assert error.headers["Connection"] == "close"


@pytest.mark.parametrize("begun", [[], pieces(b"a", whole=False)], ids=["at once", "midway"])
def test_a_client_that_leaves_gets_no_answer(begun: list[Message]) -> None:
    with pytest.raises(Disconnected):
        read([*begun, {"type": "http.disconnect"}])


def test_of_a_repeated_header_the_last_counts() -> None:
    scope = {"headers": [(b"a", b"1"), (b"b", b"\xfc"), (b"a", b"2")]}

    assert exchange.headers_of(scope) == {"a": "2", "b": "ü"}


def sent(
    write: Callable[[exchange.Send], Awaitable[None]],
) -> tuple[int, dict[bytes, bytes], bytes]:
    """What an application sends: status, headers, body."""
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    async def run() -> None:
        await write(send)

    asyncio.run(run())
    start, end = messages
    return start["status"], dict(start["headers"]), end["body"]


def test_arrays_are_written_as_lists() -> None:
    value = {"a": np.array([[0.5, 1.0]], dtype=np.float32)}
    status, headers, body = sent(lambda send: exchange.reply_json(send, value))

    assert status == 200
    assert orjson.loads(body) == {"a": [[0.5, 1.0]]}
    assert headers[b"content-length"] == str(len(body)).encode()


def test_an_error_carries_its_status_and_headers() -> None:
    error = RequestError(429, "later", headers={"Retry-After": "7"})
    status, headers, body = sent(lambda send: exchange.reply_error(send, error))

    assert (status, headers[b"retry-after"]) == (429, b"7")
    assert orjson.loads(body) == {"error": "later"}


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_readiness_is_told_by_the_status(ready: bool, status: int) -> None:
    said, headers, body = sent(lambda send: exchange.reply_ready(send, {"ready": ready}))

    assert said == status
    assert orjson.loads(body) == {"ready": ready}
    assert (b"retry-after" in headers) is not ready
