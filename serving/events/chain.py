"""Records that hang together: each is sealed with a key over its content and the seal of the one before."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic import ValidationError

from serving.events.kinds import ANY_EVENT, Event

SEALED = re.compile(rb'(\{[^\n]*),"hash":"([0-9a-f]{64})"\}')


@dataclass(frozen=True, slots=True)
class Tip:
    """Where a log ends: how many records, and the hash of the last."""

    count: int
    hash: str


NEW = Tip(0, "0" * 64)
"""The tip of a log without records."""


@dataclass(frozen=True, slots=True)
class Record:
    """An event in the log: ``number`` counts from 1, ``at`` is seconds since 1970, ``line`` its bytes."""

    number: int
    at: float
    event: Event
    previous: str
    hash: str
    line: bytes

    @property
    def time(self) -> str:
        """``at`` in the form of ISO 8601, UTC."""
        return _utc(self.at)

    @property
    def tip(self) -> Tip:
        """Where a log ends that ends here."""
        return Tip(self.number, self.hash)


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


class Broken(Exception):
    """Bytes that were not sealed with this key, and what is wrong with them."""


class Chain:
    """Seals records and heads with a key derived from the gateway's secret, and opens them.

    The seal is an HMAC-SHA256 over the bytes of the line, so without the secret nobody can change a
    record, or put one in its place, and make the chain fit. A head is a sealed tip.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = hashlib.blake2b(secret, digest_size=32, person=b"events").digest()

    def records(self, tip: Tip, entries: Iterable[tuple[float, Event]]) -> list[Record]:
        """The records of events with their times, the first of which follows ``tip``."""
        records: list[Record] = []
        for at, event in entries:
            records.append(self._record(records[-1].tip if records else tip, at, event))
        return records

    def _record(self, tip: Tip, at: float, event: Event) -> Record:
        number = tip.count + 1
        content = {
            "number": number,
            "time": _utc(at),
            "at": at,
            "kind": event.kind,
            "fields": event.model_dump(mode="json", exclude={"kind"}),
            "previous": tip.hash,
        }
        line, seal = self._seal(content)
        return Record(number, at, event, tip.hash, seal, line)

    def parse(self, line: bytes) -> Record:
        """The record of a line without its newline; raises `Broken`."""
        content, seal = self._open(line, "number")
        kind = content["kind"]
        try:
            event = ANY_EVENT.validate_python(content["fields"] | {"kind": kind})
        except ValidationError as error:
            raise Broken(f"is a '{kind}' that this version of Mantlet cannot read") from error
        number, at, previous = content["number"], content["at"], content["previous"]
        return Record(number, at, event, previous, seal, line)

    def head(self, tip: Tip) -> bytes:
        """``tip``, sealed: it tells how long a log was at the least."""
        return self._seal({"count": tip.count, "tip": tip.hash})[0]

    def parse_head(self, head: bytes) -> Tip:
        """The tip of a sealed head; raises `Broken`."""
        content, _ = self._open(head, "count")
        return Tip(content["count"], content["tip"])

    def _seal(self, content: Mapping[str, object]) -> tuple[bytes, str]:
        body = orjson.dumps(content)[:-1]
        seal = hmac.digest(self._key, body, "sha256").hex()
        return b'%b,"hash":"%b"}' % (body, seal.encode()), seal

    def _open(self, line: bytes, first: str) -> tuple[dict[str, Any], str]:
        found = SEALED.fullmatch(line)
        if found is None:
            raise Broken("is no record")
        seal = hmac.digest(self._key, found[1], "sha256").hex()
        if not hmac.compare_digest(seal.encode(), found[2]):
            raise Broken("was edited, or sealed with another secret")
        content: dict[str, Any] = orjson.loads(found[1] + b"}")
        if first not in content:
            raise Broken("is no record")
        return content, seal
