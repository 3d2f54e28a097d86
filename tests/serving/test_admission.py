from dataclasses import dataclass
from pathlib import Path

import pytest

from mantlet.errors import RequestError
from serving.admission import Admission, Client, client_id
from serving.keys import KeyFile
from serving.policy import ALLOWED, Level
from serving.settings import Identity, Tier
from serving.stores.counters import Counters

NOW = 1_000_000.0
SECRET = b"a secret of the tests"
CLOSED, OPEN, UNLIMITED = Identity(), Identity(open=True), Tier()
LEVEL = Level(name="normal")


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


def admission(
    keys: KeyFile,
    clock: Clock,
    identity: Identity = CLOSED,
    overall: Tier = UNLIMITED,
    **tiers: Tier,
) -> Admission:
    return Admission(
        identity,
        {"default": Tier()} | tiers,
        overall,
        keys=keys,
        counters=Counters(clock),
        secret=SECRET,
    )


def visitors(gate: Admission) -> tuple[Client, Client]:
    """Ann and Bob, two clients of the default tier, told apart by address."""
    return gate.identify(None, "ann", NOW), gate.identify(None, "bob", NOW)


def refused(call: object, *arguments: object) -> RequestError:
    assert callable(call)
    with pytest.raises(RequestError) as caught:
        call(*arguments)
    return caught.value


def test_a_key_names_its_client_and_tier(keys: KeyFile, clock: Clock) -> None:
    gate = admission(keys, clock, paid=Tier())
    first, _ = keys.create("acme", "paid", NOW)
    second, _ = keys.create("acme", "paid", NOW)
    (client,) = {gate.identify(text, "10.0.0.1", NOW) for text in (first, second)}

    assert (client.id, client.name, client.tier) == (client_id(SECRET, "acme"), "acme", "paid")


def test_a_key_of_a_tier_that_is_gone_falls_to_the_default(keys: KeyFile, clock: Clock) -> None:
    text, _ = keys.create("acme", "gold", NOW)

    assert admission(keys, clock).identify(text, "", NOW).tier == "default"


def test_a_client_is_stored_as_a_keyed_hash(keys: KeyFile, clock: Clock) -> None:
    name = admission(keys, clock, OPEN).identify(None, "10.0.0.1", NOW)

    assert name.id == client_id(SECRET, "address:10.0.0.1")
    assert "10.0.0.1" not in name.id
    assert client_id(SECRET, "acme") != client_id(b"another secret of the tests", "acme")
    assert len(bytes.fromhex(name.id)) == 16


@pytest.mark.parametrize("is_open", [False, True])
def test_a_wrong_key_is_refused_even_where_none_is_needed(
    keys: KeyFile, clock: Clock, is_open: bool
) -> None:
    gate = admission(keys, clock, Identity(open=is_open))
    error = refused(gate.identify, "mk_wrong", "10.0.0.1", NOW)

    assert (error.status, error.reason) == (401, "bad_key")
    assert error.headers == {"WWW-Authenticate": "Bearer"}
    assert "mk_wrong" not in str(error)


def test_without_a_key_only_an_open_gateway_lets_in(keys: KeyFile, clock: Clock) -> None:
    error = refused(admission(keys, clock).identify, None, "10.0.0.1", NOW)
    gate = admission(keys, clock, OPEN)
    first, second = (gate.identify(None, f"10.0.0.{n}", NOW) for n in (1, 2))

    assert (error.status, error.reason) == (401, "no_key")
    assert "Authorization: Bearer KEY" in str(error)
    assert first.id != second.id


def test_a_revoked_key_is_refused(keys: KeyFile, clock: Clock) -> None:
    gate = admission(keys, clock)
    text, key = keys.create("acme", "default", NOW)
    assert gate.identify(text, "", NOW).name == "acme"
    keys.revoke(key.id)

    assert refused(gate.identify, text, "", NOW + 2).status == 401


@pytest.mark.parametrize("denied", ["acme", client_id(SECRET, "acme")])
def test_a_client_on_the_deny_list_is_refused_by_name_or_by_id(
    keys: KeyFile, clock: Clock, denied: str
) -> None:
    gate = admission(keys, clock, Identity(deny=(denied,)))
    text, _ = keys.create("acme", "default", NOW)
    other, _ = keys.create("other", "default", NOW)

    assert refused(gate.identify, text, "", NOW).status == 403
    assert gate.identify(other, "", NOW).name == "other"


def test_an_address_can_be_denied(keys: KeyFile, clock: Clock) -> None:
    gate = admission(keys, clock, Identity(open=True, deny=("address:10.0.0.1",)))

    assert refused(gate.identify, None, "10.0.0.1", NOW).status == 403
    assert gate.identify(None, "10.0.0.2", NOW)


@pytest.mark.parametrize(
    ("denied", "asking"),
    [
        ("10.0.0.1", "::ffff:10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("2001:db8::1", "2001:db8::9:8:7:6"),
        ("2001:db8::/64", "2001:db8::1"), ("::1", "::1"), ("fe80::1", "fe80::2%eth0"), ("unknown", "unknown"),
    ],
)  # fmt: skip
def test_an_address_is_denied_however_it_comes(
    keys: KeyFile, clock: Clock, denied: str, asking: str
) -> None:
    gate = admission(keys, clock, Identity(open=True, deny=(f"address:{denied}",)))
    other = gate.identify(None, "2001:db8:0:1::1", NOW)

    assert refused(gate.identify, None, asking, NOW).status == 403
    assert other.name == "address:2001:db8:0:1::/64"


def test_all_addresses_that_an_ipv6_client_has_are_one_client(keys: KeyFile, clock: Clock) -> None:
    """Every host has 2**64 of them, and would never be seen twice."""
    gate = admission(keys, clock, Identity(open=True))
    ids = {gate.identify(None, f"2001:db8::{number:x}", NOW).id for number in range(100)}

    assert len(ids) == 1


@pytest.mark.parametrize("allowed", ["acme", client_id(SECRET, "acme")])
def test_a_client_on_the_allow_list_is_judged_as_such_within_the_limits_of_its_tier(
    keys: KeyFile, clock: Clock, allowed: str
) -> None:
    gate = admission(keys, clock, Identity(allow=(allowed,)), paid=Tier(requests="1/day"))
    text, _ = keys.create("acme", "paid", NOW)
    other, _ = keys.create("other", "paid", NOW)
    client, stranger = (gate.identify(key, "", NOW) for key in (text, other))
    gate.enter(client, LEVEL)

    assert (client.tier, client.judged_as) == ("paid", ALLOWED)
    assert (stranger.tier, stranger.judged_as) == ("paid", "paid")
    assert refused(gate.enter, client, LEVEL).status == 429


def test_the_rate_of_a_level_counts_beside_that_of_the_tier(keys: KeyFile, clock: Clock) -> None:
    gate = admission(keys, clock, OPEN, default=Tier(requests="4/minute"))
    ann, bob = visitors(gate)
    slow, slower = Level(name="slow", requests="2/minute"), Level(name="slower", requests="1/hour")
    gate.enter(ann, slow)
    gate.enter(ann, slow)

    assert "2 per 1 minute" in str(refused(gate.enter, ann, slow))
    gate.enter(ann, slower)  # each level counts by itself
    assert "1 per 1 hour" in str(refused(gate.enter, ann, slower))
    gate.enter(ann, LEVEL)
    assert "4 per 1 minute" in str(refused(gate.enter, ann, LEVEL)), "all of them count there"
    gate.enter(bob, slow)


def test_a_rate_counts_requests_of_each_client(keys: KeyFile, clock: Clock) -> None:
    gate = admission(keys, clock, OPEN, default=Tier(requests="3/minute"))
    ann, bob = visitors(gate)
    for _ in range(3):
        gate.enter(ann, LEVEL)
    clock.now += 12.5
    error = refused(gate.enter, ann, LEVEL)
    gate.enter(bob, LEVEL)

    assert (error.status, error.reason) == (429, "rate")
    assert error.headers == {"Retry-After": "48"}
    assert "3 per 1 minute" in str(error)
    assert "try again in 48 s" in str(error)
    clock.now += 47.5
    gate.enter(ann, LEVEL)


def test_several_rates_hold_at_once_and_a_refusal_is_charged_to_none(
    keys: KeyFile, clock: Clock
) -> None:
    gate = admission(keys, clock, OPEN, default=Tier(requests="2/second;5/minute"))
    ann, _ = visitors(gate)
    served = 0
    for _ in range(30):
        try:
            gate.enter(ann, LEVEL)
            served += 1
        except RequestError as error:
            clock.now += min(1.0, float(error.headers["Retry-After"]))
        if served == 5:
            break

    assert served == 5
    assert refused(gate.enter, ann, LEVEL).headers == {
        "Retry-After": str(int(60 - (clock.now - NOW)))
    }


def test_a_budget_counts_rows_and_charges_none_of_a_refused_request(
    keys: KeyFile, clock: Clock
) -> None:
    gate = admission(keys, clock, OPEN, default=Tier(rows="100/day"))
    ann, bob = visitors(gate)
    gate.charge(ann, 60)
    error = refused(gate.charge, ann, 41)
    gate.charge(ann, 40)

    assert (error.status, error.reason) == (429, "budget")
    assert str(error).startswith("41 ")
    assert "40 " in str(error)
    assert "100 per 1 day" in str(error)
    assert refused(gate.charge, ann, 1).headers == {"Retry-After": "86400"}
    gate.charge(bob, 100)


def test_tiers_have_budgets_of_their_own(keys: KeyFile, clock: Clock) -> None:
    gate = admission(keys, clock, OPEN, default=Tier(rows="1/day"), paid=Tier(rows="1000/day"))
    ann, _ = visitors(gate)
    text, _ = keys.create("cat", "paid", NOW)
    gate.charge(gate.identify(text, "", NOW), 1000)

    assert refused(gate.charge, ann, 2).status == 429


def test_overall_limits_hold_for_all_clients_together(keys: KeyFile, clock: Clock) -> None:
    gate = admission(keys, clock, OPEN, overall=Tier(requests="3/minute", rows="50/day"))
    ann, bob = visitors(gate)
    for client in (ann, bob, ann):
        gate.enter(client, LEVEL)
    gate.charge(ann, 30)

    assert refused(gate.enter, bob, LEVEL).reason == "rate"
    assert refused(gate.charge, bob, 21).reason == "budget"
    gate.charge(bob, 20)


def test_a_request_refused_overall_is_not_charged_to_the_client(
    keys: KeyFile, clock: Clock
) -> None:
    gate = admission(
        keys,
        clock,
        OPEN,
        overall=Tier(requests="1/second", rows="10/second"),
        default=Tier(requests="2/day", rows="15/day"),
    )
    ann, _ = visitors(gate)
    gate.enter(ann, LEVEL)
    gate.charge(ann, 10)
    for _ in range(5):
        assert refused(gate.enter, ann, LEVEL).headers == {"Retry-After": "1"}
        assert refused(gate.charge, ann, 5).headers == {"Retry-After": "1"}
    clock.now += 1

    gate.enter(ann, LEVEL)
    gate.charge(ann, 5)


def test_a_refund_gives_the_rows_back_to_every_budget(keys: KeyFile, clock: Clock) -> None:
    gate = admission(keys, clock, OPEN, overall=Tier(rows="100/day"), default=Tier(rows="100/hour"))
    ann, bob = visitors(gate)
    gate.refund(ann, 100, gate.charge(ann, 100))

    gate.charge(bob, 100)
    assert refused(gate.charge, ann, 1).status == 429


def test_a_refund_after_its_window_makes_no_budget_in_the_next(keys: KeyFile, clock: Clock) -> None:
    gate = admission(keys, clock, OPEN, default=Tier(rows="10/minute"))
    ann, _ = visitors(gate)
    charged_at = gate.charge(ann, 10)
    clock.now += 61
    gate.charge(ann, 10)
    gate.refund(ann, 10, charged_at)

    assert refused(gate.charge, ann, 1).status == 429


def test_without_limits_nothing_is_counted(keys: KeyFile, clock: Clock) -> None:
    gate = admission(keys, clock, OPEN)
    ann, _ = visitors(gate)
    for _ in range(100):
        gate.enter(ann, LEVEL)
        gate.charge(ann, 10**9)

    assert gate._counters.drain() == {}


def test_clients_at_hand_are_bounded(keys: KeyFile, clock: Clock) -> None:
    """A million addresses must not stay in memory; ids are computed anew."""
    gate = admission(keys, clock, OPEN)
    first = gate.identify(None, "address 0", NOW)
    for number in range(1, 100_002):
        gate.identify(None, f"address {number}", NOW)

    assert len(gate._clients) <= 100_000
    assert gate.identify(None, "address 0", NOW) == first
