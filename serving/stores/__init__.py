"""Stores: what the gateway remembers of its clients, by URL."""

from collections.abc import Callable, Mapping
from pathlib import Path

from mantlet.errors import ConfigError
from serving.stores.base import Store
from serving.stores.memory import MemoryStore
from serving.stores.redis import RedisStore, shown
from serving.stores.sqlite import SqliteStore

BY_SCHEME: Mapping[str, Callable[[str, Path, float, Callable[[], float]], Store]] = {
    "memory": MemoryStore.open,
    "sqlite": SqliteStore.open,
    "redis": RedisStore.open,
    "rediss": RedisStore.open,
    "unix": RedisStore.open,
}


def open_store(url: str, *, folder: Path, remember_s: float, clock: Callable[[], float]) -> Store:
    """A store by URL: ``memory://``, ``sqlite:///file`` with the file relative to ``folder``, or Redis.

    Redis is ``redis://[USER]:PASSWORD@HOST:PORT/DB``, with TLS ``rediss://``, over a socket
    ``unix://PATH?db=0``. Clients not seen for ``remember_s`` seconds are forgotten.
    """
    scheme = url.partition("://")[0]
    if "://" not in url or scheme not in BY_SCHEME:
        known = ", ".join(f"{name}://" for name in BY_SCHEME)
        raise ConfigError(f"store '{shown(url)}' is of no known kind; known: {known}")
    return BY_SCHEME[scheme](url, folder, remember_s, clock)
