import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.events.chain import NEW, Broken, Chain
from serving.events.kinds import Unban
from tests.serving.events.making import NOW, SECRET, alarm, entries, unban

CHAIN = Chain(SECRET)
(LINE,) = (record.line for record in CHAIN.records(NEW, [(NOW, alarm())]))


def test_each_record_carries_the_hash_of_the_one_before() -> None:
    first, second = CHAIN.records(NEW, entries("a", "b"))

    assert (first.number, second.number) == (1, 2)
    assert first.previous == NEW.hash
    assert second.previous == first.hash


def test_a_record_is_read_as_it_was_written() -> None:
    (written,) = CHAIN.records(NEW, [(NOW + 0.25, alarm())])

    assert CHAIN.parse(written.line) == written


def test_a_line_is_plain_json_with_its_time_in_utc() -> None:
    content = json.loads(LINE)

    assert list(content) == ["number", "time", "at", "kind", "fields", "previous", "hash"]
    assert content["time"] == "2023-11-14T22:13:20.000+00:00"
    assert (content["kind"], content["fields"]["campaign"]) == ("alarm", "k7")


def test_the_hash_needs_the_secret() -> None:
    body, _, _ = LINE.rpartition(b',"hash"')
    found = json.loads(LINE)["hash"]
    keys = [b"", SECRET, hashlib.sha256(SECRET).digest()]

    assert found not in [hmac.digest(key, body, "sha256").hex() for key in keys]
    assert found != hashlib.sha256(body).hexdigest()
    with pytest.raises(Broken, match="edited, or sealed with another secret"):
        Chain(b"another secret").parse(LINE)


@given(st.integers(0, len(LINE) - 1), st.integers(1, 255))
def test_no_byte_can_be_changed(place: int, change: int) -> None:
    edited = bytearray(LINE)
    edited[place] ^= change

    with pytest.raises(Broken):
        CHAIN.parse(bytes(edited))


def test_a_head_is_no_record_and_a_record_no_head() -> None:
    with pytest.raises(Broken, match="no record"):
        CHAIN.parse(CHAIN.head(NEW))
    with pytest.raises(Broken, match="no record"):
        CHAIN.parse_head(LINE)


def test_a_head_is_read_as_it_was_written() -> None:
    tip = CHAIN.parse(LINE).tip

    assert CHAIN.parse_head(CHAIN.head(tip)) == tip


def test_a_record_of_another_version_is_named_as_such() -> None:
    class Later(Unban):
        ticket: str = "T-1"

    later = Later(**unban().model_dump())
    (record,) = CHAIN.records(NEW, [(NOW, later)])

    with pytest.raises(Broken, match="'unban' that this version of Mantlet cannot read"):
        CHAIN.parse(record.line)
