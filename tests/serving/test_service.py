"""What a running gateway holds: models, readiness, who asks, how a body is read."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mantlet.errors import RequestError, StoreError
from serving.events.kinds import Unban
from serving.exchange import Message, Scope
from serving.stores.memory import MemoryStore
from tests.serving.inprocess import SECRET, load, service

KEYED = {"identity": {"open": False}}


def refused(call: Any, *arguments: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        call(*arguments)
    return caught.value


def test_it_is_ready_when_its_models_are(tmp_path: Path) -> None:
    waiting = service(tmp_path)
    before = waiting.ready, waiting.model_ready("mnist")
    load(waiting)

    assert before == (False, False)
    assert (waiting.ready, waiting.model_ready("mnist")) == (True, True)

    waiting.draining = True
    assert (waiting.ready, waiting.model_ready("mnist")) == (False, False)


def test_an_unknown_model_is_not_found(tmp_path: Path) -> None:
    error = refused(service(tmp_path).gateway, "n" * 500)

    assert error.status == 404
    assert len(str(error)) < 150


def test_an_unknown_version_is_not_found_once_the_right_one_is_known(tmp_path: Path) -> None:
    ready = service(tmp_path)

    assert refused(ready.gateway, "mnist", "2").status == 503

    load(ready)
    assert refused(ready.gateway, "mnist", "2").status == 404
    assert ready.gateway("mnist", "1") is ready.gateway("mnist")


def scope(address: str = "10.0.0.1") -> Scope:
    return {"client": (address, 1234)}


def test_open_clients_are_told_apart_by_a_keyed_hash_of_the_address(tmp_path: Path) -> None:
    ready = service(tmp_path)
    one, again, other = (
        ready.identify(scope(address), {}) for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2")
    )

    assert one.id == again.id != other.id
    assert "10.0" not in one.id
    assert SECRET.hex() not in one.id


def test_a_socket_without_an_address_is_one_client(tmp_path: Path) -> None:
    assert service(tmp_path).identify({"client": None}, {}).tier == "default"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "no_key"),
        ({"authorization": "Basic YTpi"}, "no_key"),
        ({"authorization": "Bearer  "}, "no_key"),
        ({"authorization": "Bearer a"}, "bad_key"),
        ({"authorization": "bEaReR a"}, "bad_key"),
        ({"x-api-key": "a"}, "bad_key"),
        ({"authorization": "Basic YTpi", "x-api-key": "a"}, "bad_key"),
    ],
)
def test_credentials_are_found_where_they_may_be(
    tmp_path: Path, headers: dict[str, str], reason: str
) -> None:
    error = refused(service(tmp_path, **KEYED).identify, scope(), headers)

    assert (error.status, error.reason) == (401, reason)


@pytest.mark.parametrize(
    ("encoding", "taken"), [("identity", True), ("IDENTITY", True), ("gzip", False), ("br", False)]
)
def test_compressed_bodies_are_refused_unread(tmp_path: Path, encoding: str, taken: bool) -> None:
    read: list[Message] = [{"type": "http.request", "body": b"{}"}]

    async def receive() -> Message:
        return read.pop()

    def body() -> bytes:
        return asyncio.run(service(tmp_path).read_body(receive, {"content-encoding": encoding}))

    if taken:
        assert body() == b"{}"
    else:
        assert refused(body).status == 415
        assert read


def test_at_its_end_it_lets_its_victims_go(tmp_path: Path) -> None:
    ready = service(tmp_path)
    victim = load(ready)
    ready.close()

    assert victim.closed


def test_at_its_end_it_writes_the_events_that_wait(tmp_path: Path) -> None:
    ready = service(tmp_path)
    for _ in range(20):
        ready.events.record(Unban(client="c", name="acme", tier="default", by="operator"))
    ready.close()

    assert ready.events.verify().events == 20


def test_a_store_that_is_away_at_the_end_takes_no_events_along(tmp_path: Path) -> None:
    class Away(MemoryStore):
        def close(self) -> None:
            raise StoreError("away")

    ready = service(tmp_path)
    ready.store = Away(ready.clock, 1.0)
    ready.events.record(Unban(client="c", name="acme", tier="default", by="operator"))

    with pytest.raises(StoreError):
        ready.close()
    assert ready.events.verify().events == 1
