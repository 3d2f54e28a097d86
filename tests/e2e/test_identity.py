"""Who may ask: keys, revocation without a restart, the deny list."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from tests.e2e.harness import ROOT, Running, npy, refusal

NPY = {"Content-Type": "application/x-npy"}
PATHS = ["/v1/models/plain:predict", "/v2/models/plain/infer"]


def keys(running: Running, *arguments: str) -> str:
    """What ``mantlet keys`` prints for this gateway."""
    command = [sys.executable, "-m", "serving.cli", "keys", *arguments]
    done = subprocess.run(
        [*command, "--config", str(running.folder / "gateway.yaml")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture
def stranger(running: Running) -> Iterator[httpx.Client]:
    with running.client() as opened:
        yield opened


@pytest.mark.parametrize("path", PATHS)
def test_without_a_key_nothing_is_computed(
    running: Running, stranger: httpx.Client, path: str
) -> None:
    before = running.computed()
    response = stranger.post(path, content=b"{}")

    refusal(response, 401, "an API key is needed: send 'Authorization: Bearer KEY' or 'X-API-Key")
    assert response.headers["www-authenticate"] == "Bearer"
    assert running.computed() == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer mk_wrong"},
        {"X-API-Key": "mk_wrong"},
        {"X-API-Key": "x" * 5000},
        {"X-API-Key": b"\xff\xfe"},
    ],
    ids=["bearer", "api key", "long", "bytes"],
)
def test_a_wrong_key_is_refused(stranger: httpx.Client, headers: dict[str, str | bytes]) -> None:
    response = stranger.post(PATHS[0], headers=headers)

    refusal(response, 401, "the API key is unknown or revoked; ask the operator for another")


def test_an_empty_key_is_none(stranger: httpx.Client) -> None:
    response = stranger.post(PATHS[0], headers={"Authorization": "Bearer", "X-API-Key": ""})

    refusal(response, 401, "an API key is needed")


def test_a_key_may_come_in_either_header(
    running: Running, stranger: httpx.Client, rows: np.ndarray
) -> None:
    key, body = running.new_key(), npy(rows[:1])
    either = [{"Authorization": f"Bearer {key}"}, {"authorization": f"bearer {key}"}]
    either += [{"X-API-Key": key}, {"Authorization": "Basic YTpi", "X-API-Key": key}]

    said = [stranger.post(PATHS[0], content=body, headers=NPY | h).status_code for h in either]

    assert said == [200] * 4


def test_a_key_is_made_used_and_revoked_without_a_restart(
    running: Running, stranger: httpx.Client, rows: np.ndarray
) -> None:
    made = json.loads(keys(running, "create", "--client", "acme", "--json"))
    key = {"X-API-Key": made["key"]}

    def ask_until(status: int) -> httpx.Response:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            response = stranger.post(PATHS[0], content=npy(rows[:1]), headers=NPY | key)
            if response.status_code == status:
                return response
            time.sleep(0.05)
        raise AssertionError(f"no {status}, but {response.status_code}: {response.text}")

    ask_until(200)
    keys(running, "revoke", made["id"])
    refused = ask_until(401)
    before = running.computed()
    again = stranger.post(PATHS[0], content=npy(rows[:1]), headers=NPY | key)

    refusal(refused, 401, "unknown or revoked")
    refusal(again, 401, "unknown or revoked")
    assert running.computed() == before


def test_the_key_file_holds_no_key(running: Running) -> None:
    path = running.folder / "state/keys.json"
    kept = path.read_text()

    assert not any(key in kept for key in [*running.keys, *running.named.values()])
    assert path.stat().st_mode & 0o077 == 0


def test_who_is_on_the_deny_list_is_refused(running: Running, rows: np.ndarray) -> None:
    before = running.computed()
    with running.client(running.named["villain"]) as villain:
        response = villain.post(PATHS[0], content=npy(rows[:1]), headers=NPY)

    refusal(response, 403, "this client is denied; ask the operator")
    assert running.computed() == before
