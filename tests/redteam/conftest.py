"""What is attacked and with what: a gateway, a thief's files, a folder of data as the bench wants it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mantlet.data import Images
from redteam.pools import FILES, Pools
from tests.e2e.harness import Running, gateway
from tests.redteam import targets


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with keys, in front of one model in several guises."""
    folder = tmp_path_factory.mktemp("target")
    named = {"hasty": "hasty", "frugal": "frugal"}
    with gateway(folder, targets.CONFIG, clients=120, tiers=named) as started:
        yield started


@pytest.fixture(scope="session")
def files(digits: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the thief's files."""
    folder = tmp_path_factory.mktemp("pictures")
    targets.write_pictures(folder, digits)
    return folder


@pytest.fixture(scope="session")
def pools(digits: Images, tmp_path_factory: pytest.TempPathFactory) -> Pools:
    """The real digits in both splits, never the same one; for the other families waves are drawn."""
    folder = tmp_path_factory.mktemp("pools")
    assert digits.y is not None
    own = (digits.x[:, 0] * 255).round().astype(np.uint8)
    # a file of the real size, of which only the rows held out for calibrations are filled
    train = np.zeros((60_000, 28, 28), np.uint8)
    train[55_000:] = own[5000:]
    labels = np.zeros(60_000, np.int64)
    labels[55_000:] = digits.y[5000:]
    np.savez(
        folder / FILES["mnist"],
        x_train=train,
        y_train=labels,
        x_test=own[:5000],
        y_test=digits.y[:5000],
    )
    rng = np.random.default_rng(0)
    for family in ("fashion", "cifar", "notmnist", "omniglot"):
        drawn = [_drawn(rng) for _ in range(2)]
        np.savez(folder / FILES[family], x_train=drawn[0], x_test=drawn[1])
    return Pools(folder)


def _drawn(rng: np.random.Generator) -> np.ndarray:
    """(700, 28, 28) pictures of waves, each its own."""
    direction, phase = rng.uniform(0.2, 0.9, (700, 2)), rng.uniform(0, 6, 700)
    y, x = np.mgrid[:28, :28]
    waves = np.sin(direction[:, :1, None] * x + direction[:, 1:, None] * y + phase[:, None, None])
    drawn: np.ndarray = ((waves + 1) * 127).astype(np.uint8)
    return drawn
