"""The gateway that most end-to-end tests share, and what they post to it."""

from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from mantlet.data import Images
from tests.e2e.harness import GUARDED, PLAIN, TIERS, Running, gateway


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with keys and a SQLite store, in front of one model in several guises."""
    config = {
        "identity": {"open": False, "deny": ["villain"]},
        "tiers": {
            **TIERS,
            "frugal": {"requests": "3/day"},
            "small": {"rows": "10/day"},
        },
        "models": {
            "mnist": GUARDED,
            "plain": PLAIN,
            "labels": GUARDED | {"answer": "labels"},
            "denying": PLAIN
            | {"policy": [{"name": "all"}, {"name": "out", "rows": 100, "deny_s": 3600}]},
            "busy": PLAIN | {"queue": {"max_queue_rows": 2}},
        },
    }
    tiers = {"villain": "default", "frugal": "frugal", "thrifty": "frugal", "small": "small"}
    folder = tmp_path_factory.mktemp("shared")
    with gateway(folder, config, clients=300, tiers=tiers) as started:
        yield started


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    """An HTTP client with a key of its own: a client that the gateway has never seen."""
    with running.client(running.new_key()) as opened:
        yield opened


@pytest.fixture(scope="session")
def rows(digits: Images) -> np.ndarray:
    """(100, 28, 28) float32 in [0, 1]: the first real digits."""
    return digits.x[:100, 0]


@pytest.fixture(scope="session")
def labels(digits: Images) -> np.ndarray:
    """(100,) what the digits are."""
    assert digits.y is not None
    return digits.y[:100]
