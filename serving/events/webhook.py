"""Tells another server of events, signed, as soon as they are in the log."""

import hmac
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Annotated
from urllib.parse import urlsplit

import structlog
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from mantlet import __version__
from serving.events.chain import Record
from serving.events.kinds import EventKind

log = structlog.get_logger(__name__)
WAITING = 1000
"""Events that may wait to be sent."""


def _url(value: object) -> str:
    """A URL that can be posted to."""
    text = str(value)
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        good = False
    if not good or "@" in text or not (text.isascii() and text.isprintable() and " " not in text):
        raise ValueError(
            "write a URL such as https://example.com/mantlet, without a password in it"
        )
    return text


def _long(value: SecretStr) -> SecretStr:
    if len(value) < 16:
        raise ValueError("has under 16 characters; use: openssl rand -hex 32")
    return value


class Webhook(BaseModel):
    """Who is told of events as soon as they are in the log; see the page on events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, BeforeValidator(_url)]
    """Where they are posted: ``https://`` or ``http://``. Redirects are not followed."""
    secret: Annotated[SecretStr, AfterValidator(_long)]
    """Signs what is posted; 16 characters or more, which the receiver has too."""
    kinds: tuple[EventKind, ...] = (
        EventKind.ALARM,
        EventKind.BAN,
        EventKind.CAMPAIGN,
        EventKind.DRIFT,
        EventKind.DROPPED,
        EventKind.REPAIRED,
    )
    """Kinds of events that are posted."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    """How long the receiver may take to connect, and then to answer."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 6
    """How often an event is posted before it is given up."""
    backoff_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """The wait before the second attempt; it doubles from one to the next."""


class Sender:
    """Posts records one after the other, from a thread of its own, and never slows who hands them over.

    An event that is not taken, with a status of 2xx, is posted again after ``backoff_s``, twice that,
    four times that ... and given up after ``attempts``; what comes when the queue is full is given up
    at once. ``failed`` is called for each event given up. Redirects are not followed: a signed event
    goes nowhere but to the URL of the config.
    """

    def __init__(
        self, settings: Webhook, clock: Callable[[], float], failed: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._failed = failed
        self._changed = threading.Condition()
        self._waiting: deque[Record] = deque()
        self._closing = False
        self._thread: threading.Thread | None = None

    def send(self, records: Sequence[Record]) -> None:
        """Have the records of the chosen kinds posted; never waits."""
        chosen = [r for r in records if r.event.kind in self._settings.kinds]
        if not chosen:
            return
        with self._changed:
            room = 0 if self._closing else WAITING - len(self._waiting)
            self._waiting.extend(chosen[:room])
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
                self._thread.start()
        for record in chosen[room:]:
            self._give_up(record, "the queue is full")

    def close(self) -> None:
        """Post what waits, each event once more at the most; give up what takes too long."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(2 * self._settings.timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                record = self._waiting.popleft()
            problem = self._deliver(record)
            if problem:
                self._give_up(record, problem)
                if self._closing:  # the others would wait as long for the same
                    self._give_up_all(problem)
                    return

    def _deliver(self, record: Record) -> str:
        """Post until it is taken; what was wrong the last time, or nothing."""
        problem = ""
        for attempt in range(self._settings.attempts):
            problem = self._post(record)
            if not problem or self._closing:
                break
            if attempt + 1 < self._settings.attempts:
                with self._changed:
                    pause_s = self._settings.backoff_s * 2**attempt
                    self._changed.wait_for(lambda: self._closing, pause_s)
        return problem

    def _post(self, record: Record) -> str:
        """Post once; what was wrong, or nothing."""
        url = urlsplit(self._settings.url)
        kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
        secret = self._settings.secret.get_secret_value().encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"mantlet/{__version__}",
            "Idempotency-Key": record.hash,
            "X-Mantlet-Signature": signature(secret, record.line, int(self._clock())),
        }
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        try:
            with closing(
                kind(url.hostname or "", url.port, timeout=self._settings.timeout_s)
            ) as connection:
                connection.request("POST", target, record.line, headers)
                status = connection.getresponse().status
        except (OSError, HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        return "" if 200 <= status < 300 else f"status {status}"

    def _give_up_all(self, problem: str) -> None:
        with self._changed:
            left, self._waiting = self._waiting, deque()
        for record in left:
            self._give_up(record, problem)

    def _give_up(self, record: Record, problem: str) -> None:
        self._failed()
        log.warning(
            "webhook_gave_up", number=record.number, kind=record.event.kind, problem=problem
        )


def signature(secret: bytes, body: bytes, at: int) -> str:
    """``t=<at>,v1=<HMAC-SHA256 of "at.body" in hex>``; ``at`` in seconds since 1970.

    >>> signature(b"secret", b"{}", 7)[:12]
    't=7,v1=76aad'
    """
    digest = hmac.digest(secret, b"%d.%b" % (at, body), "sha256").hex()
    return f"t={at},v1={digest}"
