"""An outage refuses at once, probes by itself, and ends by itself."""

import threading
import time

import pytest

from mantlet.errors import StoreAway
from serving.stores.outage import Outage


class Away(Exception):
    pass


class Ping:
    """Fails until it is told that the store is back."""

    def __init__(self) -> None:
        self.back = threading.Event()
        self.asked = 0

    def __call__(self) -> None:
        self.asked += 1
        if not self.back.is_set():
            raise Away


def wait_for(outage: Outage) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            outage.refuse()
            return
        except StoreAway:
            assert time.monotonic() < end
            time.sleep(0.005)


def test_all_is_refused_from_the_failure_until_a_probe_succeeds() -> None:
    ping = Ping()
    outage = Outage(ping, Away)
    outage.refuse()
    outage.begin()
    for _ in range(3):
        with pytest.raises(StoreAway):
            outage.refuse()
    ping.back.set()
    wait_for(outage)

    assert ping.asked >= 1


def test_one_outage_has_one_probe_however_many_calls_fail() -> None:
    outage = Outage(Ping(), Away)
    before = threading.active_count()
    for _ in range(50):
        outage.begin()
    probes = threading.active_count() - before
    outage.close()

    assert probes == 1
    assert threading.active_count() == before


def test_the_next_outage_is_one_of_its_own() -> None:
    ping = Ping()
    outage = Outage(ping, Away)
    for _ in range(3):
        ping.back.clear()
        outage.begin()
        with pytest.raises(StoreAway):
            outage.refuse()
        ping.back.set()
        wait_for(outage)

    assert ping.asked >= 3


def test_nothing_is_probed_after_the_end() -> None:
    ping = Ping()
    outage = Outage(ping, Away)
    outage.close()
    outage.begin()

    assert ping.asked == 0
