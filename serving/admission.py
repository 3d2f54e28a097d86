"""Who asks, and may they: credentials, deny list, rates and row budgets, all before any compute."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

import limits
from limits.strategies import FixedWindowRateLimiter

from mantlet.errors import RequestError
from serving.keys import KeyFile
from serving.settings import Identity, Tier
from serving.stores.counters import Counters

OVERALL = "overall"


@dataclass(frozen=True, slots=True)
class Client:
    """Whoever asks: ``id`` is a keyed hash of the name, the only thing that is logged or stored."""

    id: str
    name: str
    tier: str


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
        self._keys = keys
        self._secret = secret
        self._counters = counters
        self._counting = FixedWindowRateLimiter(counters)
        self._requests = {name: _items(tier.requests) for name, tier in tiers.items()}
        self._rows = {name: _items(tier.rows) for name, tier in tiers.items()}
        self._overall_requests = _items(overall.requests)
        self._overall_rows = _items(overall.rows)
        self._clients: dict[tuple[str, str], Client] = {}

    def identify(self, credential: str | None, address: str, now: float) -> Client:
        """The client behind a credential or, in open mode, behind an address; 401 or 403 otherwise."""
        key = self._keys.find(credential, now) if credential else None
        if key is not None:
            client = self._client(key.client, key.tier)
        elif credential:
            raise RequestError(
                401,
                "the API key is unknown or revoked; ask the operator for another",
                reason="bad_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        elif self._identity.open:
            client = self._client(f"address:{address}", "default")
        else:
            raise RequestError(
                401,
                "an API key is needed: send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
                reason="no_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if client.name in self._identity.deny or client.id in self._identity.deny:
            raise RequestError(403, "this client is denied; ask the operator", reason="denied")
        return client

    def _client(self, name: str, tier: str) -> Client:
        known = self._clients.get((name, tier))
        if known is None:
            if len(self._clients) >= 100_000:
                self._clients.clear()
            known = Client(
                client_id(self._secret, name), name, tier if tier in self._rows else "default"
            )
            self._clients[name, tier] = known
        return known

    def enter(self, client: Client) -> None:
        """Count a request against the rates; 429 when one is used up."""
        mine = [(item, client.id) for item in self._requests[client.tier]]
        rates = mine + [(item, OVERALL) for item in self._overall_requests]
        for number, (item, who) in enumerate(rates, 1):
            if not self._counting.hit(item, "requests", who):
                for hit, whose in rates[:number]:
                    self._counting.hit(hit, "requests", whose, cost=-1)
                raise self._used_up(item, who, "requests", 1)

    def charge(self, client: Client, rows: int) -> None:
        """Count rows against the budgets; 429 when they do not fit, and then none is charged."""
        budgets = self._budgets(client)
        for item, who in budgets:
            if not self._counting.test(item, "rows", who, cost=rows):
                raise self._used_up(item, who, "rows", rows)
        for item, who in budgets:
            self._counting.hit(item, "rows", who, cost=rows)

    def refund(self, client: Client, rows: int) -> None:
        """Give back the rows of an answer that never came."""
        for item, who in self._budgets(client):
            self._counting.hit(item, "rows", who, cost=-rows)

    def _budgets(self, client: Client) -> list[tuple[limits.RateLimitItem, str]]:
        mine = [(item, client.id) for item in self._rows[client.tier]]
        return mine + [(item, OVERALL) for item in self._overall_rows]

    def _used_up(self, item: limits.RateLimitItem, who: str, unit: str, asked: int) -> RequestError:
        reset, left = self._counting.get_window_stats(item, unit, who)
        wait = str(max(1, math.ceil(reset - self._counters.now())))
        return RequestError(
            429,
            f"{asked} {unit} asked, {max(left, 0)} of {item} left; try again in {wait} s",
            reason="rate" if unit == "requests" else "budget",
            headers={"Retry-After": wait},
        )


def client_id(secret: bytes, name: str) -> str:
    """The keyed hash by which a client is known: stable over restarts, meaningless elsewhere."""
    key = blake2b(secret, digest_size=32, person=b"client").digest()
    return blake2b(name.encode(), digest_size=16, key=key).hexdigest()


def _items(text: str | None) -> list[limits.RateLimitItem]:
    return limits.parse_many(text) if text else []
