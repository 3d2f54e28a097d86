"""What an operator sees: metrics, request ids, logs, the admin port, mistakes at the start."""

import re
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serving.metrics import Metrics
from tests.e2e.harness import OPEN, PLAIN, Running, gateway, npy, refusal, serve

NPY = {"Content-Type": "application/x-npy"}
PATH = "/v1/models/mnist:predict"


def ask(client: httpx.Client, rows: np.ndarray, path: str = PATH) -> httpx.Response:
    return client.post(path, content=npy(rows), headers=NPY)


# metrics


def test_every_metric_family_is_shown(running: Running) -> None:
    ours = {family.name for family in Metrics().registry.collect()}
    shown = {family.name for family in text_string_to_metric_families(running.metrics_text())}

    assert ours <= shown
    assert all(name.startswith("mantlet_") for name in ours)


MOVES = {
    "mantlet_requests_total": {"route": "predict", "status": "200"},
    "mantlet_rows_total": {"model": "mnist"},
    "mantlet_request_seconds_count": {"route": "predict"},
    "mantlet_batch_rows_count": {"model": "mnist"},
    "mantlet_suspicion_count": {"model": "mnist", "detector": "rate"},
}


@pytest.mark.parametrize("sample", MOVES)
def test_an_answer_moves_the_metric(
    running: Running, client: httpx.Client, rows: np.ndarray, sample: str
) -> None:
    before = running.total(sample, **MOVES[sample])
    ask(client, rows[:3])

    assert running.total(sample, **MOVES[sample]) > before


@pytest.mark.parametrize("stage", ["predict", "score", "respond", "store"])
def test_each_stage_is_timed(
    running: Running, client: httpx.Client, rows: np.ndarray, stage: str
) -> None:
    labels = {"model": "mnist", "stage": stage}
    count = running.total("mantlet_stage_seconds_count", **labels)
    seconds = running.total("mantlet_stage_seconds_sum", **labels)
    ask(client, rows[:3])

    assert running.total("mantlet_stage_seconds_count", **labels) == count + 1
    assert running.total("mantlet_stage_seconds_sum", **labels) > seconds


def test_rows_are_counted_by_the_row(
    running: Running, client: httpx.Client, rows: np.ndarray
) -> None:
    before = running.total("mantlet_rows_total", model="mnist")
    ask(client, rows[:7])

    assert running.total("mantlet_rows_total", model="mnist") == before + 7


@pytest.mark.parametrize(
    ("reason", "status", "body", "kind"),
    [
        ("bad_request", 400, b"{", "application/json"),
        ("media_type", 415, b"", "text/csv"),
        ("body_too_large", 413, b" " * 9_000_000, "application/json"),
    ],
)
def test_refusals_are_counted_by_reason(
    running: Running, client: httpx.Client, reason: str, status: int, body: bytes, kind: str
) -> None:
    before = running.total("mantlet_refusals_total", reason=reason)
    answered = running.total("mantlet_requests_total", route="predict", status=str(status))
    response = client.post(PATH, content=body, headers={"Content-Type": kind})

    assert response.status_code == status
    assert running.total("mantlet_refusals_total", reason=reason) == before + 1
    assert (
        running.total("mantlet_requests_total", route="predict", status=str(status)) == answered + 1
    )


def test_readiness_is_a_metric(running: Running) -> None:
    assert running.total("mantlet_ready") == 1


def test_unknown_paths_make_no_new_series(running: Running, client: httpx.Client) -> None:
    for number in range(5):
        client.get(f"/nothing/{number}")
        client.post(f"/v1/models/nobody-{number}:predict")
    text = running.metrics_text()

    assert "nothing" not in text
    assert "nobody" not in text


# the admin port


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with a token on its admin port, and a detector that soon raises the alarm."""
    eager = {"detectors": [{"type": "rate", "rows": 5, "window_s": 86400}]}
    config = OPEN | {"admin": {"token": "a long token"}, "models": {"mnist": PLAIN | eager}}
    with gateway(tmp_path_factory.mktemp("watched"), config) as started:
        yield started


def admin(running: Running, path: str, token: str | None = None) -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    url = f"http://127.0.0.1:{running.admin_port}{path}"
    return httpx.get(url, headers=headers, trust_env=False, verify=False, timeout=60)


@pytest.mark.parametrize("path", ["/metrics", "/", "/clients"])
@pytest.mark.parametrize("token", [None, "another token", "x" * 5000])
def test_the_admin_port_wants_its_token(watched: Running, path: str, token: str | None) -> None:
    response = admin(watched, path, token)

    assert response.status_code == 401
    assert response.json() == {"error": "the admin token is missing or wrong"}
    assert "mantlet_" not in response.text


def test_with_the_token_it_answers(watched: Running) -> None:
    nowhere = admin(watched, "/nowhere", "a long token")

    assert "mantlet_ready" in admin(watched, "/metrics", "a long token").text
    assert (nowhere.status_code, list(nowhere.json())) == (404, ["error"])


def test_metrics_are_not_shown_to_clients(watched: Running) -> None:
    with watched.client() as client:
        refusal(client.get("/metrics"), 404, "no such path")


def test_an_alarm_is_counted_and_logged_once_and_not_told_to_the_client(
    watched: Running, rows: np.ndarray
) -> None:
    with watched.client() as client:
        answers = [ask(client, rows[:3]) for _ in range(4)]
    text = admin(watched, "/metrics", "a long token").text
    (event,) = watched.events("alarm")

    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({frozenset(answer.headers) for answer in answers}) == 1
    assert {answer.text for answer in answers} == {answers[0].text}
    assert 'mantlet_alarms_total{detector="rate",model="mnist"} 1.0' in text
    assert event["detector"] == "rate"
    assert "127.0.0.1" not in str(event)


# request ids and logs


def test_a_request_id_is_echoed(client: httpx.Client) -> None:
    assert client.get("/v2", headers={"X-Request-Id": "a-7"}).headers["x-request-id"] == "a-7"


def test_without_one_every_request_gets_its_own(client: httpx.Client) -> None:
    ids = {client.get("/v2").headers["x-request-id"] for _ in range(20)}

    assert len(ids) == 20


@pytest.mark.parametrize("given", ["x" * 65, "a\tb", ""], ids=["long", "a tab", "empty"])
def test_an_odd_request_id_is_replaced(client: httpx.Client, given: str) -> None:
    echoed = client.get("/v2", headers={"X-Request-Id": given}).headers["x-request-id"]

    assert echoed != given
    assert 0 < len(echoed) <= 64


def test_the_log_finds_a_refusal_by_its_id(running: Running, client: httpx.Client) -> None:
    client.post(PATH, content=b"{", headers={"X-Request-Id": "find me"})
    (entry,) = [e for e in running.events("refused") if e["request_id"] == "find me"]

    assert (entry["route"], entry["status"], entry["reason"]) == ("predict", 400, "bad_request")


def test_logs_hold_no_key_no_input_and_no_answer(tmp_path: Path, rows: np.ndarray) -> None:
    """At the level that tells most, good and bad requests of both protocols."""
    config = {
        "log_level": "debug",
        "models": {"mnist": PLAIN, "labels": PLAIN | {"answer": "labels"}},
    }
    marked = np.where(rows[:2] > 0.5, 0.31415925, rows[:2])
    with gateway(tmp_path, config, clients=2) as started:
        key, other = started.new_key(), started.new_key()
        with started.client(key) as client:
            good = client.post(PATH, json={"instances": marked.tolist()})
            client.post(PATH, json={"instances": [[31.415925] * 784]})
            client.post(PATH, json={"instances": [["31.415925"] * 784]})
            client.post(PATH, content=b'{"instances": [[31.415925,,')
            client.post(PATH, headers={"Content-Type": "text/31.415925"})
            client.post("/v2/models/mnist/infer", json={"id": "31.415925", "inputs": []})
            client.get("/v1/models/31.415925")
            client.post(PATH, headers={"Authorization": f"Bearer {other}x"})
            client.post(PATH, headers={"X-API-Key": other, "Authorization": ""})
        started.stop()
        log = started.log_path.read_text()
    told = {str(value) for value in np.ravel(good.json()["predictions"])}

    assert good.status_code == 200
    assert len(started.events("refused")) == 8
    assert key not in log
    assert other[:20] not in log
    assert "1415925" not in log
    assert "client-" not in log
    assert not [value for value in told if len(value) > 4 and value in log]


def test_the_log_is_json_line_by_line(running: Running) -> None:
    odd = [line for line in running.log_lines() if not re.fullmatch(r"\{.*\}", line)]

    assert odd == []
    assert running.events("ready")[0]["level"] == "info"


# a store that fails


def test_a_store_that_fails_releases_nothing_and_is_counted(
    tmp_path: Path, rows: np.ndarray
) -> None:
    config = OPEN | {"identity": {"open": False}}
    with gateway(tmp_path, config, clients=2) as started, started.client() as client:
        known, new = ({"X-API-Key": started.new_key()} for _ in range(2))
        client.headers = known
        good = ask(client, rows[:1])
        with sqlite3.connect(tmp_path / "state/state.db") as database:
            database.execute("ALTER TABLE clients RENAME TO lost")
        refused = [ask(client, rows[:1])]
        client.headers = new  # whose standing is asked of the store first
        refused.append(ask(client, rows[:1]))
        errors = started.total("mantlet_store_errors_total")
        with sqlite3.connect(tmp_path / "state/state.db") as database:
            database.execute("ALTER TABLE lost RENAME TO clients")
        mended = ask(client, rows[:1])

    assert (good.status_code, mended.status_code) == (200, 200)
    for response in refused:
        refusal(response, 503, "no answer can be given now; try again later")
    assert errors == 2
    assert started.events("failed_closed")[0]["kind"] == "StoreAway"


# mistakes at the start


@pytest.mark.parametrize("taken", ["listen", "admin"])
def test_a_port_in_use_ends_with_one_line(tmp_path: Path, taken: str) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(yaml.safe_dump(OPEN | {"data_dir": str(tmp_path / "state")}))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ports = (port, 0) if taken == "listen" else (0, port)
        with serve(config, ports=ports) as started:
            code = started.process.wait(60)
    (line,) = started.log_lines()

    assert code == 2
    assert line == (
        f"mantlet: {taken}.port = {port} on 127.0.0.1: cannot listen there"
        " (Address already in use); take another"
    )


def test_a_mistake_in_the_config_ends_with_one_line(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(yaml.safe_dump(OPEN | {"data_dir": str(tmp_path / "state")}))
    with serve(config, "models.mnist.victim.weights=nowhere.safetensors") as started:
        code = started.process.wait(60)
    told = [line for line in started.log_lines() if not line.startswith("{")]

    assert code == 2
    assert len(told) == 1
    assert "nowhere.safetensors" in told[0]
