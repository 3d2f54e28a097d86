"""While a store is away every call is refused at once, and a thread finds out when it is back."""

import threading
from collections.abc import Callable

from mantlet.errors import StoreAway

FIRST_S, LONGEST_S = 0.02, 0.5
"""Pauses between two probes: the first, doubled each time, up to the longest."""


class Outage:
    """No request waits for a store that is known to be away; ``ping`` raises ``failure`` while it is."""

    def __init__(self, ping: Callable[[], object], failure: type[Exception]) -> None:
        self._ping = ping
        self._failure = failure
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._prober: threading.Thread | None = None

    def refuse(self) -> None:
        """Raise `StoreAway` while the store is away."""
        if self._prober is not None:
            raise StoreAway("the store is still away")

    def begin(self) -> None:
        """A call failed: refuse the others until a probe succeeds."""
        with self._lock:
            if self._prober is None and not self._closing.is_set():
                self._prober = threading.Thread(target=self._probe, name="store-probe", daemon=True)
                self._prober.start()

    def _probe(self) -> None:
        pause_s = FIRST_S
        while not self._closing.wait(pause_s):
            try:
                self._ping()
            except self._failure:
                pause_s = min(2 * pause_s, LONGEST_S)
            else:
                break
        self._prober = None

    def close(self) -> None:
        """End the probe."""
        self._closing.set()
        prober = self._prober
        if prober is not None:
            prober.join()
