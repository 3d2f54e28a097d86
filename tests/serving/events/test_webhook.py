"""The webhook against a receiver that really listens."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import ValidationError

from serving.events import webhook as module
from serving.events.chain import NEW, Chain, Record
from serving.events.kinds import EventKind
from serving.events.log import EventLog
from serving.events.webhook import Sender, Webhook, signature
from serving.metrics import Metrics
from tests.serving.events.making import NOW, SECRET, alarm, jsonl, unban

SHARED = "shared with the receiver"
RECORDS = Chain(SECRET).records(NEW, [(NOW, alarm(f"{number}")) for number in range(5)])


class Receiver(HTTPServer):
    """Answers with the statuses it is given, then 204; keeps what it was posted."""

    def __init__(self, statuses: Sequence[int] = ()) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses = list(statuses)
        self.posted: list[tuple[dict[str, str], bytes]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?team=ml"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((dict(self.headers) | {"path": self.path}, body))
        self.server.may_answer.wait(60)
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.send_header("Location", self.server.url)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def receiver(*statuses: int) -> Iterator[Receiver]:
    with Receiver(statuses) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.may_answer.set()
            server.shutdown()
            thread.join()


def settings(url: str, **changes: Any) -> Webhook:
    return Webhook.model_validate({"url": url, "secret": SHARED, "backoff_s": 0.001} | changes)


def sent(to: Webhook, records: Sequence[Record], until: Callable[[], bool]) -> int:
    """Send records, wait until something holds, and tell how many were given up."""
    failures: list[None] = []
    sender = Sender(to, lambda: NOW, lambda: failures.append(None))
    with structlog.testing.capture_logs(), closing(sender):
        sender.send(records)
        for _ in range(6000):
            if until() or failures:
                break
            threading.Event().wait(0.01)
    return len(failures)


def verifying() -> Callable[..., bool]:
    """The receiver's check as the documentation shows it."""
    page = (Path(__file__).parents[3] / "docs/events.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(compile(code, "events.md", "exec"), namespace)
    genuine: Callable[..., bool] = namespace["genuine"]
    return genuine


def test_events_are_posted_in_order_as_they_stand_in_the_log() -> None:
    with receiver() as server:
        failures = sent(settings(server.url), RECORDS, lambda: len(server.posted) == 5)
    headers, body = server.posted[0]

    assert failures == 0
    assert [posted for _, posted in server.posted] == [record.line for record in RECORDS]
    assert json.loads(body)["fields"]["name"] == "0"
    assert headers["path"] == "/hook?team=ml"
    assert headers["Content-Type"] == "application/json"


def test_a_receiver_can_tell_what_is_genuine_as_the_documentation_shows() -> None:
    genuine = verifying()
    with receiver() as server:
        sent(settings(server.url), RECORDS[:1], lambda: bool(server.posted))
    ((headers, body),) = server.posted
    header = headers["X-Mantlet-Signature"]

    assert genuine(header, body, SHARED.encode(), now=NOW + 10)
    assert not genuine(header, body.replace(b"0", b"1"), SHARED.encode(), now=NOW)
    assert not genuine(header, body, b"another secret", now=NOW)
    assert not genuine(header, body, SHARED.encode(), now=NOW + 3600)
    assert not genuine(header.replace("t=1", "t=2"), body, SHARED.encode(), now=NOW)
    assert not genuine("nonsense", body, SHARED.encode(), now=NOW)


def test_what_is_not_taken_is_posted_again_under_the_same_id() -> None:
    with receiver(500, 429, 302) as server:
        failures = sent(settings(server.url), RECORDS[:1], lambda: len(server.posted) == 4)
    ids = {headers["Idempotency-Key"] for headers, _ in server.posted}

    assert failures == 0
    assert len(server.posted) == 4
    assert ids == {RECORDS[0].hash}


def test_the_wait_doubles_from_one_attempt_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []
    wait_for = threading.Condition.wait_for

    def noted(self: threading.Condition, until: Callable[[], bool], s: float | None = None) -> Any:
        if s is not None:
            waits.append(s)
        return wait_for(self, until, 0.0 if s is not None else None)

    monkeypatch.setattr(threading.Condition, "wait_for", noted)
    with receiver(*[500] * 4) as server:
        failures = sent(settings(server.url, attempts=4, backoff_s=2), RECORDS[:1], lambda: False)

    assert failures == 1
    assert waits == [2.0, 4.0, 8.0]


def test_a_redirect_is_not_followed() -> None:
    with receiver() as elsewhere, receiver(307) as server:
        server.RequestHandlerClass = type(
            "Redirecting", (Handler,), {"send_header": lambda self, *_: None}
        )
        failures = sent(settings(server.url, attempts=1), RECORDS[:1], lambda: False)

    assert failures == 1
    assert (len(server.posted), len(elsewhere.posted)) == (1, 0)


def test_only_chosen_kinds_are_posted() -> None:
    records = Chain(SECRET).records(NEW, [(NOW, unban()), (NOW, alarm()), (NOW, unban())])
    with receiver() as server:
        to = settings(server.url, kinds=[EventKind.ALARM])
        sent(to, records, lambda: bool(server.posted))

    assert [json.loads(body)["number"] for _, body in server.posted] == [2]


def test_nobody_there_is_given_up_after_the_attempts_and_told() -> None:
    with receiver() as gone:
        url = gone.url
    failures: list[None] = []
    with structlog.testing.capture_logs() as logged:
        sender = Sender(settings(url, attempts=2), lambda: NOW, lambda: failures.append(None))
        sender.send(RECORDS[:2])
        while len(failures) < 2:
            threading.Event().wait(0.01)
        sender.close()

    assert [entry["event"] for entry in logged] == ["webhook_gave_up"] * 2
    assert "ConnectionRefusedError" in logged[0]["problem"]
    assert SHARED not in str(logged)


def test_https_is_spoken_where_it_is_asked_for() -> None:
    """To a server without certificates: nothing of the event goes out."""
    with receiver() as server:
        url = server.url.replace("http:", "https:")
        failures = sent(settings(url, attempts=1), RECORDS[:1], lambda: False)

    assert (failures, server.posted) == (1, [])


def test_a_receiver_that_hangs_does_not_slow_the_log(tmp_path: Path) -> None:
    metrics = Metrics()
    with receiver() as server, structlog.testing.capture_logs():
        server.may_answer.clear()
        sender = Sender(
            settings(server.url, timeout_s=0.5), lambda: NOW, metrics.webhook_failures.inc
        )
        log = EventLog(jsonl(tmp_path), Chain(SECRET), lambda: NOW, metrics=metrics, sender=sender)
        for _ in range(100):
            log.record(alarm())
        written = log.flush()
        posted = len(server.posted)
        log.close()

    assert written
    assert posted <= 1
    assert log.verify().events == 100
    assert metrics.registry.get_sample_value("mantlet_webhook_failures_total") == 100


def test_a_full_queue_gives_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 2)
    failures: list[None] = []
    with receiver() as server, structlog.testing.capture_logs() as logged:
        server.may_answer.clear()
        sender = Sender(settings(server.url), lambda: NOW, lambda: failures.append(None))
        sender.send(RECORDS)
        given_up = len(failures)
        server.may_answer.set()
        sender.close()

    assert given_up == 3
    assert {entry["problem"] for entry in logged} == {"the queue is full"}
    assert len(server.posted) == 2


def test_the_signature_is_that_of_time_and_body() -> None:
    assert signature(b"s", b"body", 7) != signature(b"s", b"body", 8)
    assert re.fullmatch(r"t=7,v1=[0-9a-f]{64}", signature(b"s", b"body", 7))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "ftp://h/x",
        "file:///etc/passwd",
        "http://",
        "http://u:p@h/",
        "http://h:99999/",
        "http://h/é",
        "http://h/a b",
        "http://h/\r\nX: y",
        "http://[::1",
    ],
)
def test_a_url_that_cannot_be_posted_to_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="write a URL such as"):
        settings(url)


def test_a_short_secret_is_refused_and_none_is_shown() -> None:
    with pytest.raises(ValidationError, match="has under 16 characters"):
        settings("http://h/", secret="short")

    assert SHARED not in repr(settings("http://h/"))
