"""Memory of clients in Redis: gateways on several machines see one client as one stream."""

import re
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from mantlet.errors import ConfigError, StoreAway, StoreError
from serving.stores.base import Entry, pack, unpack
from serving.stores.counters import Count, Counters
from serving.stores.outage import Outage

SWAP = """
-- KEYS: clients, then counters. ARGV: how many clients, the time, for how long they are kept (ms);
-- a client: expected version, new value; a counter: pending, value, end.
-- All is read before anything is written, so that an error leaves everything as it was.
local clients, at, lost, counts = tonumber(ARGV[1]), tonumber(ARGV[2]), {}, {}
for i = 1, clients do
  if redis.call('GETRANGE', KEYS[i], 0, 7) ~= ARGV[2 + 2 * i] then lost[#lost + 1] = i end
end
for i = clients + 1, #KEYS do
  local arg = 4 + 2 * clients + 3 * (i - clients - 1)
  local stored = redis.call('GET', KEYS[i])
  local total, ends = tonumber(ARGV[arg + 1]), ARGV[arg + 2]
  if stored then
    local value, its_end = string.match(stored, '^(%S+) (%S+)$')
    if tonumber(its_end) > at then total, ends = value + ARGV[arg], its_end end
  end
  counts[#counts + 1] = string.format('%.0f', total) .. ' ' .. ends
end
if #lost == 0 then
  for i = 1, clients do redis.call('SET', KEYS[i], ARGV[3 + 2 * i], 'PX', ARGV[3]) end
end
for i = clients + 1, #KEYS do
  local left = tonumber(string.match(counts[i - clients], '%S+$')) - at
  redis.call('SET', KEYS[i], counts[i - clients], 'PX', math.ceil((left + 60) * 1000))
end
return {lost, counts}
"""
HEADER = struct.Struct(">Qd")
"""Before a client's memory: its version, and when it was last seen, in seconds."""
CLIENT, COUNTER = "mantlet:client:", "mantlet:counter:"
CONNECTIONS = 16
CONNECT_S, ANSWER_S = 1.0, 2.0
LONGEST_S = 100 * 365 * 86_400.0
CHUNK = 100
"""Keys that a scan reads at once."""
log = structlog.get_logger(__name__)


class RedisStore:
    """One script a batch compares and sets all its clients and adds up its counters, in one round trip.

    Nothing is asked twice by itself: a write whose answer was lost may have been done. After a failure
    everything is refused at once, until a probe finds Redis back. Entries at hand, as `SqliteStore` has
    them, would save the read but lose the swap whenever another replica saw the client in between.
    A counter that Redis does not have is written with all that is known of it, not only what is new:
    a Redis that forgot its counters learns them again.
    """

    def __init__(self, url: str, clock: Callable[[], float], remember_s: float) -> None:
        self._remember_s = remember_s
        self._keep_ms = int(min(remember_s + 3600, LONGEST_S) * 1000)
        self._swapping = threading.Lock()
        self._redis = _connect(url)
        self._swap = self._redis.register_script(SWAP)
        self._outage = Outage(self._redis.ping, redis.RedisError)
        self.counters = Counters(clock, self._fetch_counter)

    @classmethod
    def open(
        cls, url: str, folder: Path, remember_s: float, clock: Callable[[], float]
    ) -> "RedisStore":
        """Opened by `serving.stores.open_store`; warns of a Redis that forgets."""
        store = cls(url, clock, remember_s)
        try:
            _inspect(store._redis)
        except (redis.RedisError, ValueError, TypeError) as error:
            store._redis.close()
            raise ConfigError(f"store '{shown(url)}' cannot be used: {_remedy(error)}") from error
        except ConfigError as error:
            store._redis.close()
            raise ConfigError(f"store '{shown(url)}' {error}") from None
        return store

    def load_many(self, keys: Sequence[str], at: float) -> dict[str, Entry]:
        if not keys:
            return {}
        values = self._ask(self._redis.mget, [CLIENT + key for key in keys])
        return {
            key: Entry(0, {}) if value is None else self._entry(value, at)
            for key, value in zip(keys, values, strict=True)
        }

    def _entry(self, value: bytes, at: float) -> Entry:
        if len(value) < HEADER.size:
            raise StoreError("the stored memory of a client is damaged; restore Redis from a copy")
        version, seen = HEADER.unpack_from(value)
        forgotten = seen + self._remember_s <= at
        return Entry(version, {} if forgotten else unpack(value[HEADER.size :]))

    def swap_many(self, entries: Mapping[str, Entry], at: float) -> set[str]:
        values = [
            (
                struct.pack(">Q", entry.version) if entry.version else b"",
                HEADER.pack(entry.version + 1, at) + pack(entry.memory),
            )
            for entry in entries.values()
        ]
        with self._swapping:  # nobody answers while another still holds counts that are not stored
            self._outage.refuse()
            pending = self.counters.drain()
            if not entries and not pending:
                return set()
            keys = [CLIENT + key for key in entries] + [COUNTER + key for key in pending]
            args: list[str | int | bytes] = [len(entries), repr(at), self._keep_ms]
            args += [part for value in values for part in value]
            for count in pending.values():
                args += [count.pending, count.value, repr(count.expires)]
            try:
                lost, counts = self._ask(self._swap, keys, args)
            except StoreError:
                self.counters.give_back(pending)
                raise
            self.counters.settle(dict(zip(pending, map(_count, counts), strict=True)))
        names = list(entries)
        return {names[index - 1] for index in lost}

    def scan(self, prefix: str) -> Iterator[tuple[str, Entry]]:
        pattern = "".join(f"\\{c}" if c in "\\*?[]" else c for c in CLIENT + prefix) + "*"
        cursor, start = None, len(CLIENT)
        while cursor != 0:
            cursor, found = self._ask(self._redis.scan, cursor or 0, pattern, CHUNK)
            for first in range(0, len(found), CHUNK):
                some = found[first : first + CHUNK]
                values = self._ask(self._redis.mget, some)
                for key, value in zip(some, values, strict=True):
                    entry = None if value is None else self._entry(value, self.counters.now())
                    if entry is not None and entry.memory:
                        yield key.decode()[start:], entry

    def _fetch_counter(self, key: str) -> Count | None:
        stored = self._ask(self._redis.get, COUNTER + key)
        return None if stored is None else _count(stored)

    def _ask(self, command: Callable[..., Any], *args: Any) -> Any:
        self._outage.refuse()
        try:
            return command(*args)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            self._outage.begin()
            raise StoreAway(f"Redis is away: {error}") from error
        except redis.RedisError as error:  # out of memory, a full disk, a replica, a revoked right
            raise StoreAway(f"Redis refused: {error}") from error

    def close(self) -> None:
        try:
            self.swap_many({}, self.counters.now())
        except StoreAway as error:
            log.error("counts_not_stored", error=str(error))
        self._outage.close()
        self._redis.close()
        self._redis.connection_pool.disconnect()


def shown(url: str) -> str:
    """A URL without what may be a password, in one that is mistyped too.

    >>> shown("redis://:pa/ss@host:6379/0?password=pass&db=1")
    'redis://:***@host:6379/0?password=***&db=1'
    """
    scheme, parted, rest = url.partition("://")
    said, at, where = rest.rpartition("@")
    user = f"{said.partition(':')[0]}:***" if ":" in said else "***"
    return scheme + parted + (user + at if at else "") + re.sub("(password=)[^&]*", r"\1***", where)


def _connect(url: str) -> "redis.Redis":
    """A client whose connections are made when first needed; `ConfigError` for a bad URL."""
    try:
        parts = urlsplit(url)
        if "@" in parts.path + parts.query + parts.fragment:
            raise ValueError("in a password, write / as %2F, ? as %3F, # as %23 and @ as %40")
        if parts.scheme != "unix" and parts.path.strip("/") and not parts.path[1:].isdigit():
            raise ValueError(f"'{parts.path[1:]}' is no number of a database")
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=ANSWER_S,
            socket_timeout=ANSWER_S,
            socket_connect_timeout=CONNECT_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"store '{shown(url)}' is no address of a Redis: {error}; write"
            " redis://:PASSWORD@HOST:6379/0"
        ) from error
    return redis.Redis(connection_pool=pool)


def _inspect(client: "redis.Redis") -> None:
    """Refuse a server that cannot hold the store; warn of one that would lose some of it."""
    info: dict[str, Any] = client.info()
    if info.get("cluster_enabled"):
        raise ConfigError("is a Redis Cluster; a batch must be on one node, so name a single Redis")
    if info.get("role") == "slave":
        raise ConfigError("is a read-only replica; name its master")
    evicts = info.get("maxmemory_policy", "noeviction")
    if evicts != "noeviction":
        log.warning(
            "redis_evicts",
            maxmemory_policy=evicts,
            meaning="alarms, refusals and budgets may vanish when memory is short",
            remedy="set maxmemory-policy noeviction",
        )
    try:
        snapshots = bool(client.config_get("save").get("save"))
    except redis.ResponseError:  # hosts of Redis forbid CONFIG, and keep snapshots of their own
        snapshots = True
    if not info.get("aof_enabled") and not snapshots:
        log.warning(
            "redis_forgets",
            meaning="nothing is kept on disk: a restart of Redis loses alarms, refusals and budgets",
            remedy="set appendonly yes and appendfsync always",
        )


def _remedy(error: Exception) -> str:
    if isinstance(error, redis.AuthenticationError):
        return f"{error}; mend user and password in the URL"
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return f"{error}; does Redis run there?"
    return f"{error}; mend the URL or the rights of its user"


def _count(stored: bytes) -> Count:
    try:
        value, expires = stored.split()
        return Count(int(value), float(expires))
    except ValueError as error:
        raise StoreError(f"a stored counter is damaged: {stored[:40]!r}") from error
