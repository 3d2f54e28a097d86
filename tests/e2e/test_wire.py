"""Bodies and headers that lie, flood or crawl, against a gateway with narrow bounds."""

from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.harness import OPEN, Running, error_of, gateway, raw, refusal

PATH = "/v1/models/mnist:predict"
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: a\r\n".encode()
LIMIT = 20_000


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    listen = {
        "max_body_bytes": LIMIT,
        "max_header_bytes": 4096,
        "max_headers": 32,
        "header_timeout_s": 1.0,
        "body_timeout_s": 1.0,
    }
    with gateway(tmp_path_factory.mktemp("narrow"), OPEN | {"listen": listen}) as started:
        yield started


@pytest.fixture(autouse=True)
def _no_forward_pass(narrow: Running) -> Iterator[None]:
    """None of this reaches the model."""
    yield

    assert narrow.computed() == (0, 0)


@pytest.fixture
def client(narrow: Running) -> Iterator[httpx.Client]:
    with narrow.client() as opened:
        yield opened


def chunked(size: int) -> Iterator[bytes]:
    while size > 0:
        yield b" " * min(size, 1000)
        size -= 1000


def test_an_announced_body_over_the_limit_is_refused(client: httpx.Client) -> None:
    response = client.post(PATH, content=b" " * (LIMIT + 1))

    refusal(response, 413, f"over the limit of {LIMIT} bytes; send fewer rows a request")
    assert response.headers["connection"] == "close"


def test_it_is_refused_before_it_is_sent(narrow: Running) -> None:
    (answer,) = raw(narrow.port, HEAD + b"Content-Length: 999999999999\r\n\r\n")

    assert answer[0] == 413


def test_it_is_refused_instead_of_asked_for(narrow: Running) -> None:
    (answer,) = raw(
        narrow.port, HEAD + b"Expect: 100-continue\r\nContent-Length: 999999999999\r\n\r\n"
    )

    assert answer[0] == 413


def test_a_chunked_body_over_the_limit_is_refused(client: httpx.Client) -> None:
    refusal(client.post(PATH, content=chunked(LIMIT * 2)), 413, f"limit of {LIMIT} bytes")


def test_a_body_that_never_ends_is_cut(narrow: Running) -> None:
    piece = b"400\r\n" + b" " * 1024 + b"\r\n"
    (answer,) = raw(narrow.port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[piece] * 10_000)

    assert answer[0] == 413


def test_a_length_shorter_than_the_body_cuts_the_json(narrow: Running) -> None:
    answers = raw(narrow.port, HEAD + b'Content-Length: 5\r\n\r\n{"instances": []}', read=2)

    assert [answer[0] for answer in answers][:1] == [400]
    assert "the body is no JSON" in error_of(answers[0])
    assert len(answers) == 1 or error_of(answers[1]) == "this is no HTTP/1.1 request"


def test_a_length_longer_than_the_body_is_waited_for_and_refused(narrow: Running) -> None:
    (answer,) = raw(narrow.port, HEAD + b'Content-Length: 5000\r\n\r\n{"instances": []}')

    assert answer[0] == 408
    assert error_of(answer) == "the body took over 1 s to arrive"
    assert answer[1]["connection"] == "close"


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 500\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"],
    ids=["length", "chunks"],
)
def test_a_body_that_stops_coming_is_refused(narrow: Running, framing: bytes) -> None:
    (answer,) = raw(narrow.port, HEAD + framing)

    assert answer[0] == 408


def test_headers_that_stop_coming_are_refused(narrow: Running) -> None:
    (answer,) = raw(narrow.port, HEAD)

    assert answer[0] == 408
    assert error_of(answer) == "the headers took over 1 s"


def test_a_flood_of_headers_is_refused(client: httpx.Client) -> None:
    response = client.get("/v2", headers={f"x-{number}": "1" for number in range(100)})

    assert response.status_code == 431
    assert response.json()["error"] == "the headers are over the limit of 32 headers and 4096 bytes"


@pytest.mark.parametrize("size", [5_000, 1_000_000])
def test_one_giant_header_is_refused(narrow: Running, size: int) -> None:
    (answer,) = raw(narrow.port, b"GET /v2 HTTP/1.1\r\nHost: a\r\nx: " + b"a" * size)

    assert answer[0] == 431


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        bytes(range(256)) * 4,
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
    ],
    ids=["length and chunks", "two lengths", "garbage", "TLS"],
)
def test_what_is_no_http_is_refused(narrow: Running, request_: bytes) -> None:
    (answer,) = raw(narrow.port, request_)

    assert answer[0] == 400
    assert error_of(answer) == "this is no HTTP/1.1 request"


def test_a_client_that_leaves_midway_costs_nothing(narrow: Running) -> None:
    before = narrow.total("mantlet_requests_total", status="499")
    raw(narrow.port, HEAD + b"Content-Length: 500\r\n\r\n{", read=0)
    while narrow.total("mantlet_requests_total", status="499") == before:
        pass

    assert not narrow.events("unexpected_error")


def test_all_the_refusals_leave_a_log_of_json_lines(narrow: Running) -> None:
    raw(narrow.port, b"garbage\r\n\r\n")

    assert [line for line in narrow.log_lines() if not line.startswith("{")] == []
