"""A service in this process, around a tiny victim, and clients of its applications."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import httpx

from mantlet.plugin import Defense, Detector
from serving.admin import create_admin
from serving.admission import Admission
from serving.app import create_app
from serving.events.log import EventLog
from serving.explaining import Explaining
from serving.gateway import Gateway
from serving.keys import KeyFile
from serving.pipeline import Pipeline
from serving.policy import Level
from serving.service import Service
from serving.settings import Queue, Settings
from serving.stores.memory import MemoryStore
from tests.helpers import TinyVictim, config

ROOT = Path(__file__).parents[2]
SECRET = b"a secret of the tests"


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def service(folder: Path, **changes: Any) -> Service:
    """A service whose model, ``mnist``, is not loaded yet; ``changes`` are settings."""
    settings = Settings.model_validate(config(ROOT, folder, **changes))
    clock = Clock()
    store = MemoryStore(clock, settings.remember_s)
    admission = Admission(
        settings.identity,
        settings.tiers,
        settings.overall,
        keys=KeyFile(folder / "keys.json"),
        counters=store.counters,
        secret=SECRET,
    )
    events = EventLog.open(settings.events, folder=folder, secret=SECRET, clock=clock)
    return Service(settings, store, admission, events, clock)


def load(
    into: Service,
    *,
    victim: Any = None,
    detectors: Sequence[Detector] = (),
    defenses: Sequence[Defense] = (),
    levels: Sequence[Level] = (),
    shadow: bool = False,
    answer: Literal["probabilities", "labels"] = "probabilities",
    queue: Queue | None = None,
    explaining: Explaining | None = None,
) -> Any:
    """Load the tiny victim as ``mnist``."""
    victim = victim or TinyVictim()
    into.gateways["mnist"] = Gateway(
        "mnist",
        Pipeline(
            victim,
            detectors,
            defenses,
            levels=levels,
            shadow=shadow,
            answer=answer,
            explaining=explaining,
        ),
        into.store,
        into.admission,
        queue=queue or Queue(max_rows_per_request=8),
        clock=into.clock,
        metrics=into.metrics,
        events=into.events,
    )
    return victim


class Client:
    """Asks an application of this process, one request after the other."""

    def __init__(self, application: Any) -> None:
        self._transport = httpx.ASGITransport(application, raise_app_exceptions=False)

    def request(self, method: str, path: str, **parts: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=self._transport, base_url="http://localhost"
            ) as client:
                return await client.request(method, path, **parts)

        return asyncio.run(ask())

    def get(self, path: str, **parts: Any) -> httpx.Response:
        return self.request("GET", path, **parts)

    def post(self, path: str, **parts: Any) -> httpx.Response:
        return self.request("POST", path, **parts)


def client_of(ready: Service) -> Client:
    """A client of the data plane."""
    return Client(create_app(ready))


def admin_of(ready: Service) -> Client:
    """A client of the admin plane."""
    return Client(create_admin(ready))
