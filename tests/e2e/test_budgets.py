"""Rates and row budgets by tier: 429 before any compute, remembered over restarts and sudden death."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e.harness import PLAIN, Running, gateway, npy, refusal

NPY = {"Content-Type": "application/x-npy"}
PATH = "/v1/models/plain:predict"


def ask(client: httpx.Client, rows: np.ndarray, path: str = PATH) -> httpx.Response:
    return client.post(path, content=npy(rows), headers=NPY)


@pytest.fixture
def frugal(running: Running) -> Iterator[httpx.Client]:
    """Three requests a day."""
    with running.client(running.named["frugal"]) as opened:
        yield opened


def test_beyond_its_rate_a_client_waits(
    running: Running, frugal: httpx.Client, rows: np.ndarray
) -> None:
    said = [ask(frugal, rows[:50]).status_code for _ in range(3)]
    before = running.computed()
    refused = ask(frugal, rows[:1])

    assert said == [200] * 3
    refusal(refused, 429, "1 requests asked, 0 of 3 per 1 day left; try again in")
    assert int(refused.headers["retry-after"]) <= 86_400
    assert running.computed() == before


def test_malformed_requests_count_against_the_rate(running: Running, rows: np.ndarray) -> None:
    with running.client(running.named["thrifty"]) as thrifty:
        said = [thrifty.post(PATH, content=b"{").status_code for _ in range(4)]

    assert said == [400] * 3 + [429]


def test_a_tiers_limits_are_each_clients_own(
    running: Running, client: httpx.Client, rows: np.ndarray
) -> None:
    assert [ask(client, rows[:1]).status_code for _ in range(5)] == [200] * 5


def test_what_does_not_fit_the_budget_is_not_charged(running: Running, rows: np.ndarray) -> None:
    with running.client(running.named["small"]) as small:
        first = ask(small, rows[:6])
        before = running.computed()
        refused = [ask(small, rows[:5]) for _ in range(3)]
        after = running.computed()
        bad = small.post(PATH, content=npy(rows[:4] * 9), headers=NPY)
        rest, beyond = ask(small, rows[:4]), ask(small, rows[:1])

    assert [first.status_code, rest.status_code, bad.status_code] == [200, 200, 400]
    for response in refused:
        refusal(response, 429, "5 rows asked, 4 of 10 per 1 day left; try again in")
    refusal(beyond, 429, "1 rows asked, 0 of 10 per 1 day left")
    assert before == after


def test_budgets_survive_restarts_and_sudden_death(tmp_path: Path, rows: np.ndarray) -> None:
    config: dict[str, Any] = {
        "tiers": {"default": {"rows": "10/day", "requests": "6/day"}},
        "models": {"plain": PLAIN},
    }
    with gateway(tmp_path, config, clients=1) as first:
        key = first.new_key()
        with first.client(key) as client:
            before = [ask(client, rows[:2]).status_code for _ in range(2)]
        first.stop(signal.SIGKILL)

    with gateway(tmp_path, config) as second:
        with second.client(key) as client:
            after_death = ask(client, rows[:7])
            before.append(ask(client, rows[:2]).status_code)
        second.stop(signal.SIGTERM)

    with gateway(tmp_path, config) as third, third.client(key) as client:
        after_restart = ask(client, rows[:5])
        fits = ask(client, rows[:4])
        too_often = ask(client, rows[:1])

    assert before == [200] * 3
    refusal(after_death, 429, "7 rows asked, 6 of 10 per 1 day left")
    refusal(after_restart, 429, "5 rows asked, 4 of 10 per 1 day left")
    refusal(too_often, 429, "1 requests asked, 0 of 6 per 1 day left")
    assert fits.status_code == 200


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with limits for everybody together."""
    config: dict[str, Any] = {
        "tiers": {"default": {"requests": "3/day", "rows": "100/day"}},
        "overall": {"requests": "4/2 second", "rows": "20/day"},
        "models": {"plain": PLAIN},
    }
    with gateway(tmp_path_factory.mktemp("together"), config, clients=4) as started:
        yield started


def test_everybody_together_has_a_budget(shared: Running, rows: np.ndarray) -> None:
    one, two, three = (shared.client(shared.new_key()) for _ in range(3))
    with one, two, three:
        first, second = ask(one, rows[:12]), ask(two, rows[:8])
        before = shared.computed()
        beyond = ask(three, rows[:1])

    assert [first.status_code, second.status_code] == [200, 200]
    refusal(beyond, 429, "1 rows asked, 0 of 20 per 1 day left")
    assert shared.computed() == before


def test_what_the_limit_for_all_refuses_is_not_charged_to_a_client(shared: Running) -> None:
    """Malformed requests count against rates alone: three of a client's own are let in, however many
    were refused meanwhile."""
    admitted: list[str] = []
    with shared.client(shared.new_key()) as client:
        while len(admitted) < 3:
            response = client.post(PATH, content=b"{")
            if response.status_code == 400:
                admitted.append(response.text)
            else:
                refusal(response, 429, "of 4 per 2 second left")
        response = client.post(PATH, content=b"{")
        while "of 4 per 2 second" in response.text:
            response = client.post(PATH, content=b"{")

    refusal(response, 429, "0 of 3 per 1 day left")
