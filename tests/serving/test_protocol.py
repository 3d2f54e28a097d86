"""The bounds of the HTTP parser, on real sockets: a small application behind a real server."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn

from serving.exchange import Disconnected, Receive, Room, Scope, Send, headers_of, read_body, reply
from serving.protocol import PIPELINED, bounded
from serving.settings import Listen
from tests.e2e.harness import error_of, raw, read_answers

BOUNDS = Listen(
    max_header_bytes=2048,
    max_headers=16,
    header_timeout_s=20,
    body_timeout_s=20,
    max_connections=8,
)
HASTY = BOUNDS.model_copy(update={"header_timeout_s": 0.5, "body_timeout_s": 0.5})
LARGE = 1 << 26
"""More than any socket holds."""
POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
GET = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"


async def _application(scope: Scope, receive: Receive, send: Send) -> None:
    """Echoes the body; under /unread answers without reading it, under /slow after a while.

    Under /who it tells the header that says so, under /large it answers `LARGE` bytes.
    """
    if scope["path"] == "/large":
        await reply(send, bytes(LARGE))
        return
    if scope["path"] == "/unread":
        await reply(send, b"no need")
        return
    try:
        body = await read_body(
            receive, headers_of(scope), limit=10**6, timeout_s=60, room=Room(10**9)
        )
    except Disconnected:
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(0.2)
    if scope["path"] == "/who":
        body = headers_of(scope).get("x-api-key", "nobody").encode()
    await reply(send, scope["path"].encode() + b" " + body)


@contextmanager
def serving(bounds: Listen) -> Iterator[int]:
    """The application on a port, in a thread."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        _application,
        http=bounded(bounds),
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_keep_alive=60,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started:
        time.sleep(0.005)
    yield bound.getsockname()[1]
    server.should_exit = True
    thread.join()
    bound.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(BOUNDS) as number:
        yield number


@pytest.fixture(scope="module")
def hasty_port() -> Iterator[int]:
    """The same with little patience."""
    with serving(HASTY) as number:
        yield number


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        yield connection


def test_a_request_within_the_bounds_is_answered(port: int) -> None:
    ((status, _, body),) = raw(port, POST + b"Content-Length: 3\r\n\r\nabc")

    assert (status, body) == (200, b"/echo abc")


def test_too_many_headers_are_refused(port: int) -> None:
    flood = b"".join(b"x-%d: 1\r\n" % number for number in range(20))
    (answer,) = raw(port, POST + flood + b"\r\n")

    assert answer[0] == 431
    assert error_of(answer) == "the headers are over the limit of 16 headers and 2048 bytes"


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"a" * 3000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a" * 3000,
        b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /" + b"a" * 3000,
        b"\r\n" * 2000,
    ],
    ids=["a giant value", "a name without end", "a long path", "a path without end", "newlines"],
)
def test_too_large_headers_are_refused_before_they_end(port: int, head: bytes) -> None:
    (answer,) = raw(port, head)

    assert answer[0] == 431
    assert "over the limit" in error_of(answer)


def test_a_header_flood_that_never_ends_is_cut(port: int) -> None:
    (answer,) = raw(port, b"GET / HTTP/1.1\r\n", *[b"x: " + b"a" * 1000 + b"\r\n"] * 10_000)

    assert answer[0] == 431


def test_trailers_count_as_headers(port: int) -> None:
    body = b"1\r\na\r\n0\r\n" + b"x: y\r\n" * 20 + b"\r\n"
    (answer,) = raw(port, POST + b"Transfer-Encoding: chunked\r\n\r\n" + body)

    assert answer[0] == 431


def test_a_trailer_is_no_header(port: int) -> None:
    """A proxy takes headers away that clients may not send, and lets trailers through."""
    head = POST.replace(b"/echo", b"/who") + b"Transfer-Encoding: chunked\r\n"
    body = b"1\r\na\r\n0\r\nX-API-Key: somebody\r\n\r\n"
    trailed, told = raw(port, head + b"\r\n" + body, head + b"X-API-Key: me\r\n\r\n" + body, read=2)

    assert trailed[2] == b"/who nobody"
    assert told[2] == b"/who me"


def test_each_request_of_a_connection_has_its_own_bounds(port: int) -> None:
    request = GET.replace(b"\r\n\r\n", b"\r\nx: " + b"a" * 1500 + b"\r\n\r\n")

    assert [answer[0] for answer in raw(port, request, request, request * 2, read=4)] == [200] * 4


def test_headers_that_stop_coming_are_refused(hasty_port: int) -> None:
    (answer,) = raw(hasty_port, b"GET / HTTP/1.1\r\nHost:")

    assert answer[0] == 408
    assert error_of(answer) == "the headers took over 0.5 s"


def test_headers_that_drip_are_refused(hasty_port: int) -> None:
    with connected(hasty_port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        connection.settimeout(0.05)
        answer = b""
        for _ in range(600):
            try:
                answer = connection.recv(1000)
                break
            except TimeoutError:
                connection.sendall(b"a: b\r\n"[:1])

    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_second_request_has_no_longer_than_the_first(hasty_port: int) -> None:
    answers = raw(hasty_port, GET, b"GET / HT", read=2)

    assert [answer[0] for answer in answers] == [200, 408]


def test_a_connection_that_says_nothing_is_closed_without_a_word(hasty_port: int) -> None:
    assert raw(hasty_port) == []


def test_stray_newlines_do_not_keep_a_connection(hasty_port: int) -> None:
    with connected(hasty_port) as connection:
        connection.sendall(GET)
        read_answers(connection, 1)
        connection.sendall(b"\r\n")

        assert connection.recv(1) == b""


def test_a_body_that_nobody_reads_does_not_keep_a_connection(hasty_port: int) -> None:
    head = b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
    with connected(hasty_port) as connection:
        connection.sendall(head)
        (answer,) = read_answers(connection, 1)
        connection.sendall(b"a")
        rest = connection.recv(1)

    assert answer[2] == b"no need"
    assert rest == b""


def test_a_body_that_nobody_read_may_be_followed_by_a_request(port: int) -> None:
    head = b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
    with connected(port) as connection:
        connection.sendall(head)
        read_answers(connection, 1)
        connection.sendall(b"a" * 1000 + GET)
        ((status, _, body),) = read_answers(connection, 1)

    assert (status, body) == (200, b"/echo ")


def test_after_a_body_that_nobody_read_silence_ends_the_connection(hasty_port: int) -> None:
    head = b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
    with connected(hasty_port) as connection:
        connection.sendall(head)
        read_answers(connection, 1)
        connection.sendall(b"a" * 1000)

        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\na b: c\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: a\r\n\r\n",
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        POST + b"Content-Length: -3\r\n\r\nabc",
        POST + b"Content-Length: 3a\r\n\r\nabc",
        POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
        POST + b"Transfer-Encoding: gzip\r\n\r\nabc",
        POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
    ],
    ids=[
        "TLS", "no request", "another version", "no colon", "blank in a name", "raw bytes in path",
        "CONNECT", "length and chunks", "chunks and length", "two lengths", "negative length",
        "length with letters", "length that overflows", "unknown coding", "no chunk",
        "negative chunk", "chunk that overflows",
    ],
)  # fmt: skip
def test_what_is_no_http_is_refused(port: int, request_: bytes) -> None:
    (answer,) = raw(port, request_)

    assert answer[0] == 400
    assert answer[1]["connection"] == "close"
    assert error_of(answer) in ("this is no HTTP/1.1 request", "this is no proxy")


def test_an_offer_of_http_2_costs_no_body(port: int) -> None:
    """As Java's client sends it with every plain request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAE\r\n"
    request = POST + offer + b"Content-Length: 3\r\n\r\n"

    answers = raw(port, request, b"abc", request + b"def" + GET, read=3)

    assert [answer[0] for answer in answers] == [200] * 3
    assert [answer[2] for answer in answers] == [b"/echo abc", b"/echo def", b"/echo "]


def test_a_length_beside_chunks_is_refused_behind_an_upgrade_too(port: int) -> None:
    offer = b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n"
    (answer,) = raw(port, POST + offer + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")

    assert answer[0] == 400


def test_requests_in_one_packet_are_answered_in_order(port: int) -> None:
    first = POST.replace(b"/echo", b"/slow") + b"Content-Length: 1\r\n\r\n1"
    second = POST + b"Content-Length: 1\r\n\r\n2"

    assert [a[2] for a in raw(port, first + second + GET, read=3)] == [
        b"/slow 1",
        b"/echo 2",
        b"/echo ",
    ]


def test_nonsense_behind_a_request_does_not_take_its_answer(port: int) -> None:
    first = POST.replace(b"/echo", b"/slow") + b"Content-Length: 1\r\n\r\n1"
    answers = raw(port, first + b"nonsense\r\n\r\n", read=2)

    assert [answer[2] for answer in answers] == [b"/slow 1"]


def test_requests_of_one_packet_beyond_the_limit_end_the_connection(port: int) -> None:
    """What was taken is answered; the others would fill the memory while nobody takes answers."""
    answers = raw(port, GET * 1000, read=1000)

    assert {answer[0] for answer in answers} == {200}
    assert PIPELINED < len(answers) < 1000
    assert answers[-1][1]["connection"] == "close"


def test_a_client_that_takes_nothing_of_its_answer_is_given_up() -> None:
    bounds = HASTY.model_copy(update={"max_connections": 1})
    with serving(bounds) as port, connected(port) as deaf:
        deaf.sendall(GET.replace(b"/echo", b"/large"))
        deaf.recv(1)
        statuses = [503]
        for _ in range(600):
            if statuses[-1] == 200:
                break
            time.sleep(0.05)
            statuses.append(raw(port, GET)[0][0])

    assert statuses[-1] == 200


def test_a_client_that_takes_its_answer_slowly_gets_all_of_it() -> None:
    bounds = HASTY.model_copy(update={"body_timeout_s": 1.0})
    with serving(bounds) as port, connected(port) as slow:
        slow.sendall(GET.replace(b"/echo", b"/large"))
        taken = 0
        for _ in range(25):
            taken += len(slow.recv(1 << 20))
            time.sleep(0.1)
        while taken < LARGE and (part := slow.recv(1 << 20)):
            taken += len(part)

    assert taken >= LARGE


def test_connections_beyond_the_limit_are_told_to_come_back() -> None:
    with serving(BOUNDS.model_copy(update={"max_connections": 1})) as port, connected(port) as one:
        one.sendall(GET)
        read_answers(one, 1)
        (refused,) = raw(port, GET)
        one.close()
        again = refused
        while again[0] == 503:  # until the server has seen the end of the first
            (again,) = raw(port, GET)

    assert refused[0] == 503
    assert refused[1]["retry-after"] == "1"
    assert "too many connections" in error_of(refused)
    assert again[0] == 200
