"""What an operator sees: clients by suspicion, one client with its history, campaigns, by page."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from mantlet.errors import RequestError
from serving import oversight
from serving.folding import ALARMS, CAMPAIGN
from serving.policy import Level
from serving.service import Service
from tests.helpers import bright
from tests.serving.inprocess import load, service

LEVELS = (Level(name="normal"), Level(name="alarmed", alarm=True))


@pytest.fixture
def watched(tmp_path: Path) -> Service:
    """A gateway with keys for three clients, of whom each has asked: a thief, a suspect, an honest one."""
    ready = service(tmp_path, identity={"open": False})
    load(ready, detectors=[bright()], levels=LEVELS)
    for name, shade, rows in (("thief", 1.0, 16), ("suspect", 1.0, 4), ("honest", 0.05, 8)):
        ask(ready, name, shade, rows)
    return ready


def ask(ready: Service, name: str, shade: float, rows: int) -> str:
    """Let a client with a key of its own ask rows of one shade; returns its id."""
    known = {client.name: client for client in ready.admission.known().values()}
    if name not in known:
        ready.admission._keys.create(name, "default", 0.0)
        known = {client.name: client for client in ready.admission.known().values()}
    inputs = np.full((rows, 1, 4, 4), shade, np.float32)
    asyncio.run(ready.gateways["mnist"].answer(known[name], inputs))
    return known[name].id


def listed(ready: Service, *, limit: int = 10, offset: int = 0) -> list[dict[str, object]]:
    page = oversight.clients(ready, model=None, limit=limit, offset=offset)["clients"]
    assert isinstance(page, list)
    return page


def test_the_most_suspicious_clients_come_first_with_their_names(watched: Service) -> None:
    assert [entry["name"] for entry in listed(watched)] == ["thief", "suspect", "honest"]


def test_an_entry_says_all_that_an_operator_decides_by(watched: Service) -> None:
    thief = listed(watched)[0]

    assert thief["tier"] == "default"
    assert thief["model"] == "mnist"
    assert thief["rows"] == 16
    assert (thief["suspicion"], thief["alarm"], thief["level"]) == (1.0, True, "alarmed")
    assert thief["campaign"] is None
    detectors = thief["detectors"]
    assert isinstance(detectors, dict)
    assert detectors["bright"]["alarm"]
    assert 0 < detectors["bright"]["rows_at_alarm"] <= 16


def test_an_honest_client_is_at_the_first_level_without_suspicion(watched: Service) -> None:
    honest = listed(watched)[-1]

    assert (honest["suspicion"], honest["alarm"], honest["level"]) == (0.0, False, "normal")


def test_pages_follow_one_another(watched: Service) -> None:
    pages = [listed(watched, limit=1, offset=offset)[0]["name"] for offset in range(3)]

    assert pages == ["thief", "suspect", "honest"]
    assert listed(watched, limit=5, offset=3) == []


def test_one_client_is_shown_with_its_suspicion_over_time(watched: Service) -> None:
    client = str(listed(watched)[0]["client"])
    [at_model] = oversight.client(watched, client)["models"]  # type: ignore[misc]
    history = at_model["history"]

    assert [point["rows"] for point in history] == [16]
    assert history[-1]["suspicion"] == 1.0


def test_the_history_grows_with_the_suspicion(tmp_path: Path) -> None:
    ready = service(tmp_path, identity={"open": False})
    load(ready, detectors=[bright()], levels=LEVELS)
    for _ in range(8):
        client = ask(ready, "slow", 1.0, 1)
    [at_model] = oversight.client(ready, client)["models"]  # type: ignore[misc]
    suspicions = [point["suspicion"] for point in at_model["history"]]

    assert len(suspicions) > 3
    assert suspicions == sorted(suspicions)


def test_a_client_that_never_asked_is_not_found(watched: Service) -> None:
    with pytest.raises(RequestError, match="'nobody' is not known") as refused:
        oversight.client(watched, "nobody")

    assert refused.value.status == 404


def test_a_model_that_is_not_served_is_not_found(watched: Service) -> None:
    with pytest.raises(RequestError, match="model 'other' is not served"):
        oversight.clients(watched, model="other", limit=1, offset=0)


def test_members_of_a_campaign_are_listed_together(watched: Service) -> None:
    gateway = watched.gateways["mnist"]
    ids = [str(entry["client"]) for entry in listed(watched)[:2]]
    for client in ids:
        mark = {CAMPAIGN: np.array([4.0, 1000.0, 0xBEEF])}
        gateway.amend(client, lambda memory, mark=mark: {**memory, ALARMS: mark})  # type: ignore[misc]
    [campaign] = oversight.campaigns(watched)["campaigns"]  # type: ignore[misc]

    assert (campaign["campaign"], campaign["model"], campaign["size"]) == ("beef", "mnist", 2)
    assert {member["client"] for member in campaign["members"]} == set(ids)
