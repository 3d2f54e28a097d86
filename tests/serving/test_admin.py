"""The admin plane: metrics, clients, campaigns and events, for those with the token."""

import re
from pathlib import Path

import pytest

from serving.policy import Level
from serving.service import Service
from tests.helpers import bright
from tests.serving.inprocess import admin_of, load, service
from tests.serving.test_oversight import ask

TOKEN = {"admin": {"port": 0, "token": "a long token"}}


@pytest.mark.parametrize("path", ["/metrics", "/elsewhere"])
@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer another", "a long tokeN", b"Bearer \xff\xfe"]
)
def test_without_the_token_nothing_is_told(
    tmp_path: Path, path: str, given: str | bytes | None
) -> None:
    headers = {} if given is None else {"Authorization": given}
    response = admin_of(service(tmp_path, **TOKEN)).get(path, headers=headers)

    assert response.status_code == 401
    assert response.json() == {"error": "the admin token is missing or wrong"}


def test_with_the_token_metrics_are_shown(tmp_path: Path) -> None:
    headers = {"Authorization": "Bearer a long token"}
    response = admin_of(service(tmp_path, **TOKEN)).get("/metrics", headers=headers)

    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    assert "mantlet_ready 0.0" in response.text


def test_where_no_token_is_set_none_is_needed(tmp_path: Path) -> None:
    ready = service(tmp_path)
    load(ready)

    assert "mantlet_ready 1.0" in admin_of(ready).get("/metrics").text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example:8081", 403), ("127.evil.example", 403),
        ("localhost.evil.example", 403), ("[::1", 403), ("", 403), ("10.0.0.1", 403),
        ("localhost:8081", 200), ("127.0.0.1", 200), ("[::1]:8081", 200), ("LOCALHOST", 200),
    ],
)  # fmt: skip
def test_without_a_token_a_page_elsewhere_cannot_ask_by_a_name_of_its_own(
    tmp_path: Path, host: str, status: int
) -> None:
    """As a browser does whose page's name was made to point to this machine."""
    response = admin_of(service(tmp_path)).get("/metrics", headers={"Host": host})

    assert response.status_code == status


def test_with_the_token_the_port_may_be_called_by_any_name(tmp_path: Path) -> None:
    headers = {"Authorization": "Bearer a long token", "Host": "gateway.example"}

    assert admin_of(service(tmp_path, **TOKEN)).get("/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/elsewhere", 404), ("POST", "/metrics", 405)]
)
def test_errors_have_the_one_form(tmp_path: Path, method: str, path: str, status: int) -> None:
    response = admin_of(service(tmp_path)).request(method, path)

    assert response.status_code == status
    assert list(response.json()) == ["error"]


def test_a_path_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    admin = admin_of(service(tmp_path))
    named = re.findall(r"/\w+", admin.get("/").json()["error"])

    assert len(named) == 4
    assert [admin.get(path).status_code for path in named] == [200] * 4


@pytest.fixture
def watched(tmp_path: Path) -> Service:
    """A gateway of which an alarmed client has asked."""
    ready = service(tmp_path, identity={"open": False})
    load(ready, detectors=[bright()], levels=(Level(name="normal"), Level(name="out", alarm=True)))
    ask(ready, "thief", 1.0, 16)
    return ready


def test_clients_are_listed_as_documented(watched: Service) -> None:
    [entry] = admin_of(watched).get("/clients").json()["clients"]

    documented = {"client", "name", "tier", "rows", "suspicion", "alarm", "level", "detectors"}
    assert documented | {"extraction_progress", "campaign"} <= entry.keys()
    assert entry["detectors"]["bright"].keys() == {"suspicion", "alarm", "rows_at_alarm"}


def test_a_client_is_shown_changed_and_its_change_recorded(watched: Service) -> None:
    admin = admin_of(watched)
    client = admin.get("/clients").json()["clients"][0]["client"]
    changed = admin.post(f"/clients/{client}", json={"unban": True})
    watched.events.flush()

    assert changed.json() == admin.get(f"/clients/{client}").json()
    assert changed.json()["models"][0]["alarm"] is False
    told = admin.get("/events", params={"kind": "unban"}).json()["events"]
    assert [event["client"] for event in told] == [client]


def test_events_are_paged_by_their_number(watched: Service) -> None:
    watched.events.flush()
    admin = admin_of(watched)
    first = admin.get("/events", params={"limit": 1}).json()
    rest = admin.get("/events", params={"after": first["next"]}).json()

    assert [event["number"] for event in first["events"]] == [1]
    assert next(event["number"] for event in rest["events"]) == 2
    assert admin.get("/events", params={"after": rest["next"]}).json()["events"] == []


def test_no_campaign_is_an_empty_list(watched: Service) -> None:
    assert admin_of(watched).get("/campaigns").json() == {"campaigns": []}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/clients?limit=0", None, 400, "limit: "),
        ("GET", "/clients?offset=-1", None, 400, "offset: "),
        ("GET", "/clients?model=other", None, 404, "'other' is not served"),
        ("GET", "/clients/nobody", None, 404, "'nobody' is not known"),
        ("POST", "/clients/nobody", b'{"unban": true}', 404, "'nobody' is not known"),
        ("POST", "/clients/nobody", b'{"unbann": true}', 400, "unbann: unknown; known: "),
        ("POST", "/clients/nobody", b"{", 400, "JSON"),
        ("POST", "/clients/nobody", b"{}", 400, "nothing to change"),
        ("GET", "/events?kind=other", None, 400, "kind.0: "),
        ("GET", "/events?after=x", None, 400, "after: "),
    ],
)
def test_bad_requests_are_told_what_is_wrong(
    watched: Service, method: str, path: str, body: bytes | None, status: int, words: str
) -> None:
    headers = {"Content-Type": "application/json"}
    response = admin_of(watched).request(method, path, content=body, headers=headers)

    assert response.status_code == status
    assert words in response.json()["error"]


@pytest.mark.parametrize("path", ["/clients", "/clients/x", "/campaigns", "/events"])
def test_nothing_of_clients_is_told_without_the_token(tmp_path: Path, path: str) -> None:
    assert admin_of(service(tmp_path, **TOKEN)).get(path).status_code == 401
