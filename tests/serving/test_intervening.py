"""What an operator decides: it is done at once, kept, recorded, and refused when it makes no sense."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from defenses.modelguard_s import ModelGuardS
from mantlet.errors import RequestError
from serving import oversight
from serving.events.kinds import EventKind, Override, Unban
from serving.folding import ANSWERED
from serving.gateway import Gateway
from serving.intervening import Change, change
from serving.policy import Level
from serving.service import Service
from tests.helpers import bright
from tests.serving.inprocess import load, service
from tests.serving.test_oversight import ask

LEVELS = (
    Level(name="normal"),
    Level(name="watched", suspicion=0.5),
    Level(name="banned", alarm=True, deny_s=600),
)


@pytest.fixture
def watched(tmp_path: Path) -> Service:
    tiers = {"default": {}, "gold": {}}
    ready = service(tmp_path, identity={"open": False}, tiers=tiers)
    load(ready, detectors=[bright()], levels=LEVELS)
    return ready


def banned(ready: Service) -> str:
    """A client that was banned: its id."""
    with pytest.raises(RequestError) as refused:
        ask(ready, "thief", 1.0, 16)
    assert refused.value.status == 403
    return next(c.id for c in ready.admission.known().values() if c.name == "thief")


def standing(ready: Service, client: str) -> dict[str, object]:
    [entry] = oversight.client(ready, client)["models"]  # type: ignore[misc]
    assert isinstance(entry, dict)
    return entry


def recorded(ready: Service, kind: EventKind) -> list[object]:
    ready.events.flush()
    return [record.event for record in ready.events.read(kinds=[kind])]


def test_unban_takes_back_refusal_alarm_and_evidence_but_no_rows(watched: Service) -> None:
    client = banned(watched)
    change(watched, client, Change(unban=True))
    now = standing(watched, client)

    assert (now["denied_until"], now["alarm"], now["suspicion"]) == (None, False, 0.0)
    assert now["level"] == "normal"
    assert now["rows"] == 16


def test_who_is_unbanned_is_answered_again_at_once(watched: Service) -> None:
    client = banned(watched)
    change(watched, client, Change(unban=True))

    assert ask(watched, "thief", 0.0, 1) == client


def test_who_is_unbanned_is_answered_as_before_by_a_defense_that_remembers(tmp_path: Path) -> None:
    """A second set of cells would tell a thief a second answer to every query."""
    ready = service(tmp_path, identity={"open": False})
    load(ready, defenses=[ModelGuardS()])
    client = ask(ready, "thief", 1.0, 1)
    before = ready.gateways["mnist"].memory_of(client)[ANSWERED + "modelguard_s"]
    change(ready, client, Change(unban=True))
    after = ready.gateways["mnist"].memory_of(client)[ANSWERED + "modelguard_s"]

    assert np.array_equal(after["answers"], before["answers"])


def test_unban_is_recorded(watched: Service) -> None:
    client = banned(watched)
    change(watched, client, Change(unban=True))
    [event] = recorded(watched, EventKind.UNBAN)

    assert isinstance(event, Unban)
    assert (event.client, event.name) == (client, "thief")


def test_who_steals_on_after_an_unban_is_banned_again(watched: Service) -> None:
    client = banned(watched)
    change(watched, client, Change(unban=True))
    with pytest.raises(RequestError):
        ask(watched, "thief", 1.0, 256)

    assert standing(watched, client)["alarm"]


def test_acknowledging_changes_no_treatment_and_is_shown(watched: Service) -> None:
    client = banned(watched)
    before = standing(watched, client)
    change(watched, client, Change(acknowledge=True))
    after = standing(watched, client)

    assert not before["acknowledged"]
    assert after == {**before, "acknowledged": True}


def test_a_level_set_by_hand_holds_until_it_is_taken_back(watched: Service) -> None:
    client = ask(watched, "honest", 0.0, 4)
    change(watched, client, Change(level="watched"))
    ask(watched, "honest", 0.0, 4)

    assert standing(watched, client)["level"] == "watched"

    change(watched, client, Change(level=None))
    ask(watched, "honest", 0.0, 4)

    assert standing(watched, client)["level"] == "normal"
    told = [
        (e.before, e.after)
        for e in recorded(watched, EventKind.OVERRIDE)
        if isinstance(e, Override)
    ]
    assert told == [(None, "watched"), ("watched", None)]


def test_a_milder_level_by_hand_ends_the_refusal(watched: Service) -> None:
    client = banned(watched)
    change(watched, client, Change(level="watched"))

    assert standing(watched, client)["denied_until"] is None
    assert ask(watched, "thief", 0.0, 1) == client
    assert standing(watched, client)["level"] == "watched"
    assert [e.model for e in recorded(watched, EventKind.UNBAN) if isinstance(e, Unban)] == [
        "mnist"
    ]


def test_a_refusal_by_hand_is_over_when_it_is_taken_back(watched: Service) -> None:
    client = ask(watched, "honest", 0.0, 4)
    change(watched, client, Change(level="banned"))
    with pytest.raises(RequestError):
        ask(watched, "honest", 0.0, 1)
    change(watched, client, Change(level=None))

    assert ask(watched, "honest", 0.0, 1) == client
    assert standing(watched, client)["level"] == "normal"


def test_who_is_in_alarm_is_refused_again_when_a_milder_level_is_taken_back(
    watched: Service,
) -> None:
    client = banned(watched)
    change(watched, client, Change(level="normal"))
    ask(watched, "thief", 0.0, 1)
    change(watched, client, Change(level=None))
    with pytest.raises(RequestError) as refused:
        ask(watched, "thief", 0.0, 1)

    assert refused.value.status == 403


def test_a_tier_is_given_to_all_keys_of_the_client(watched: Service) -> None:
    client = ask(watched, "acme", 0.0, 1)
    watched.admission._keys.create("acme", "default", 0.0)
    change(watched, client, Change(tier="gold"))
    tiers = [key.tier for key in watched.admission._keys.all()]

    assert tiers == ["gold", "gold"]
    assert standing(watched, client)["tier"] == "gold"


def test_an_unknown_client_is_not_found(watched: Service) -> None:
    with pytest.raises(RequestError, match="'nobody' is not known"):
        change(watched, "nobody", Change(unban=True))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Change(), "nothing to change"),
        (Change(model="mnist"), "nothing to change"),
        (Change(level="strict"), "no level 'strict'; known: normal, watched, banned"),
        (Change(tier="platinum"), "tier 'platinum' is unknown"),
        (Change(model="other", unban=True), "model 'other' is not served"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    watched: Service, wanted: Change, words: str
) -> None:
    client = ask(watched, "honest", 0.0, 4)
    before = standing(watched, client)
    with pytest.raises(RequestError, match=words):
        change(watched, client, wanted)

    assert standing(watched, client) == before


def test_an_address_has_no_tier_of_its_own(tmp_path: Path) -> None:
    ready = service(tmp_path, identity={"open": True})
    load(ready, detectors=[bright()], levels=LEVELS)
    who = ready.admission.identify(None, "10.0.0.1", 0.0)
    with pytest.raises(RequestError, match="has no key") as refused:
        change(ready, who.id, Change(tier="default"))

    assert refused.value.status == 409


def test_a_level_by_hand_awaits_a_client_that_has_a_key_and_never_asked(watched: Service) -> None:
    watched.admission._keys.create("feared", "default", 0.0)
    feared = next(c for c in watched.admission.known().values() if c.name == "feared")
    with pytest.raises(RequestError, match="no level 'strict'"):
        change(watched, feared.id, Change(level="strict"))
    change(watched, feared.id, Change(level="banned"))

    assert standing(watched, feared.id)["override"] == "banned"
    with pytest.raises(RequestError) as refused:
        ask(watched, "feared", 0.0, 1)
    assert refused.value.status == 403


def test_a_decision_about_one_model_leaves_the_others(watched: Service) -> None:
    client = ask(watched, "honest", 0.0, 4)
    first = watched.gateways["mnist"]
    other = Gateway(
        "other",
        first.pipeline,
        watched.store,
        watched.admission,
        queue=first.queue,
        clock=watched.clock,
        metrics=watched.metrics,
        events=watched.events,
    )
    watched.gateways["other"] = other
    other.amend(client, lambda memory: first.memory_of(client))
    change(watched, client, Change(model="other", level="watched"))
    levels = {
        entry["model"]: entry["override"]
        for entry in oversight.client(watched, client)["models"]  # type: ignore[attr-defined]
    }

    assert levels == {"mnist": None, "other": "watched"}


def test_who_was_forgiven_elsewhere_is_treated_so_here_within_a_second(watched: Service) -> None:
    """Another process changed the memory: what this one keeps at hand is read anew."""
    client = ask(watched, "honest", 0.0, 4)
    change(watched, client, Change(level="banned"))
    with pytest.raises(RequestError):
        ask(watched, "honest", 0.0, 1)
    gateway = watched.gateways["mnist"]
    kept = dict(gateway._standings)
    gateway.amend(client, lambda memory: {"evidence": memory["evidence"]})
    gateway._standings.update(kept)
    who = watched.admission.known()[client]
    with pytest.raises(RequestError):
        asyncio.run(gateway.admit(who))
    watched.clock.now += 2  # type: ignore[attr-defined]

    asyncio.run(gateway.admit(who))
    assert not gateway._standings[client][0].punished
