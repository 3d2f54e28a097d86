"""Who asks, and may they: credentials, deny list, rates and row budgets, all before any compute."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address

import limits

from mantlet.errors import RequestError
from serving.keys import KeyFile
from serving.policy import ALLOWED, Level
from serving.settings import Identity, Tier
from serving.stores.counters import Counters

ADDRESS = "address:"
"""Before the address in the name of a client without a key."""
OVERALL = "overall"
UNITS = ("requests", "rows", "pixels", "explanations")
KEPT = 100_000
"""Clients kept at hand; the others are worked out again when they come back."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``amount`` in a fixed window of ``seconds``, counted under ``key``."""

    key: str
    seconds: int
    amount: int
    unit: str
    text: str

    @classmethod
    def of(cls, item: limits.RateLimitItem, unit: str, who: str) -> "Limit":
        """A rate of the ``limits`` library for requests or rows of one client, or of all."""
        return cls(item.key_for(unit, who), item.get_expiry(), item.amount, unit, str(item))


@dataclass(frozen=True, slots=True)
class Client:
    """Whoever asks: ``id`` is a keyed hash of the name, by which memories and logs know the client.

    ``tier`` decides its limits, ``judged_as`` its levels: the tier, or that of the allow list.
    ``identity`` is a keyed hash too, of who pays for it.
    """

    id: str
    name: str
    tier: str
    judged_as: str = "default"
    identity: str = ""


class Admission:
    """Tells clients apart and counts what they ask for.

    Rates count requests, budgets count rows; both per client by tier, and overall. A refused
    request is not charged; a request whose answer failed gets its rows back.
    """

    def __init__(
        self,
        identity: Identity,
        tiers: Mapping[str, Tier],
        overall: Tier,
        *,
        keys: KeyFile,
        counters: Counters,
        secret: bytes,
    ) -> None:
        self._identity = identity
        self._deny, self._allow = placed(identity.deny), placed(identity.allow)
        self._keys = keys
        self._secret = secret
        self._counters = counters
        self._tiers = tiers
        self._overall = overall
        self._clients: dict[tuple[str, str, str], Client] = {}
        self._known_limits: dict[tuple[str, str], tuple[tuple[Limit, ...], ...]] = {}

    def identify(self, credential: str | None, address: str, now: float) -> Client:
        """The client behind a credential or, in open mode, behind an address; 401 or 403 otherwise."""
        key = self._keys.find(credential, now) if credential else None
        if key is not None:
            client = self._client(key.client, key.tier, key.identity)
        elif credential:
            raise RequestError(
                401,
                "the API key is unknown or revoked; ask the operator for another",
                reason="bad_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        elif self._identity.open:
            client = self._client(f"{ADDRESS}{place_of(address)}", "default")
        else:
            raise RequestError(
                401,
                "an API key is needed: send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
                reason="no_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if client.name in self._deny or client.id in self._deny:
            raise RequestError(403, "this client is denied; ask the operator", reason="denied")
        return client

    def _client(self, name: str, tier: str, identity: str = "") -> Client:
        known = self._clients.get((name, tier, identity))
        if known is None:
            if len(self._clients) >= KEPT:
                self._clients.clear()
            held = tier if tier in self._tiers else "default"
            own = client_id(self._secret, name)
            allowed = name in self._allow or own in self._allow
            paid_by = client_id(self._secret, identity) if identity else own
            known = Client(own, name, held, ALLOWED if allowed else held, paid_by)
            self._clients[name, tier, identity] = known
        return known

    def known(self) -> dict[str, Client]:
        """Clients by id: the owners of keys in force, and those that this process has seen."""
        owners = {
            (key.client, key.tier, key.identity) for key in self._keys.all() if not key.revoked
        }
        return {c.id: c for c in [*self._clients.values(), *(self._client(*o) for o in owners)]}

    def set_tier(self, client: Client, tier: str) -> bool:
        """Give all keys of a client another tier; whether it has any."""
        if not self._keys.set_tier(client.name, tier):
            return False
        for held in [k for k, known in self._clients.items() if known.id == client.id]:
            del self._clients[held]
        return True

    def _limits(self, client: Client) -> tuple[tuple[Limit, ...], ...]:
        """The client's limits of each of `UNITS`, those that all clients share included."""
        known = self._known_limits.get((client.id, client.tier))
        if known is None:
            if len(self._known_limits) >= KEPT:
                self._known_limits.clear()
            mine, everybodys = self._tiers[client.tier], self._overall
            known = tuple(
                _parse(getattr(mine, unit), unit, client.id)
                + _parse(getattr(everybodys, unit), unit, OVERALL)
                for unit in UNITS
            )
            self._known_limits[client.id, client.tier] = known
        return known

    def enter(self, client: Client, level: Level) -> None:
        """Count a request against the rates of its tier and its level; 429 when one is used up."""
        rates = self._limits(client)[0]
        if level.requests:
            rates += _parse(level.requests, "requests", f"{client.id}/{level.name}")
        self._check(rates, 1, "rate")
        self._count(rates, 1)

    def charge(self, client: Client, rows: int, pixels: int = 0, explanations: int = 0) -> float:
        """Count against the budgets; 429 when one of them is too small, and then none is charged.

        Returns when that was, which `refund` wants to know.
        """
        budgets = [*zip(self._limits(client)[1:], (rows, pixels, explanations), strict=True)]
        for budget, cost in budgets:
            self._check(budget, cost, "budget")
        for budget, cost in budgets:
            self._count(budget, cost)
        return self._counters.now()

    def refund(
        self,
        client: Client,
        rows: int,
        charged_at: float,
        pixels: int = 0,
        explanations: int = 0,
    ) -> None:
        """Give back what an answer that never came has cost, in the windows that it was charged to."""
        costs = (rows, pixels, explanations)
        for budget, cost in zip(self._limits(client)[1:], costs, strict=True):
            for limit in budget:
                self._counters.take_back(limit.key, limit.seconds, cost, charged_at)

    def _count(self, charged: Sequence[Limit], cost: int) -> None:
        for limit in charged:
            self._counters.incr(limit.key, limit.seconds, cost)

    def _check(self, charged: Sequence[Limit], cost: int, reason: str) -> None:
        for limit in charged:
            left = limit.amount - self._counters.get(limit.key)
            if cost > left:
                raise self._used_up(limit, cost, max(left, 0), reason)

    def _used_up(self, limit: Limit, cost: int, left: int, reason: str) -> RequestError:
        ends = self._counters.get_expiry(limit.key)
        wait = str(max(1, math.ceil(ends - self._counters.now())))
        asked = f"{cost} {limit.unit} asked, {left} of {limit.text} left"
        message = f"{asked}; try again in {wait} s"
        return RequestError(429, message, reason=reason, headers={"Retry-After": wait})


def client_id(secret: bytes, name: str) -> str:
    """The keyed hash by which a client is known: stable over restarts, meaningless elsewhere."""
    key = blake2b(secret, digest_size=32, person=b"client").digest()
    return blake2b(name.encode(), digest_size=16, key=key).hexdigest()


@lru_cache(maxsize=4096)
def place_of(address: str) -> str:
    """An address as clients are told apart by it: IPv4 as such, also within IPv6, of which a client has a /64.

    >>> place_of("::ffff:192.0.2.1"), place_of("2001:db8::1:2:3:4")
    ('192.0.2.1', '2001:db8::/64')
    """
    try:
        given = ip_address(address)
    except ValueError:  # a test's, or that of a socket of files
        return address
    if given.version == 4 or given.is_loopback:
        return str(given)
    if given.ipv4_mapped:
        return str(given.ipv4_mapped)
    return f"{IPv6Address(int(given) >> 64 << 64)}/64"


def placed(names: Sequence[str]) -> frozenset[str]:
    """Names of clients, with addresses as clients are told apart by them."""
    return frozenset(
        ADDRESS + place_of(name.removeprefix(ADDRESS)) if name.startswith(ADDRESS) else name
        for name in names
    )


def _parse(text: str | None, unit: str, who: str) -> tuple[Limit, ...]:
    items = limits.parse_many(text) if text else []
    return tuple(Limit.of(item, unit, who) for item in items)
