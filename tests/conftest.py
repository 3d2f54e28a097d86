"""What every test shares: one torch thread, hypothesis profiles, and files that ship with the project."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import torch
from hypothesis import HealthCheck, settings

from mantlet.data import Images, load_images
from mantlet.plugin import Setup
from serving.victims.torch import TorchVictim
from tests.redis_server import BINARY

ROOT = Path(__file__).parents[1]

slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "default", max_examples=25, deadline=None, derandomize=True, suppress_health_check=slow
)
settings.register_profile(
    "thorough", max_examples=500, deadline=None, suppress_health_check=slow
)  # pytest --hypothesis-profile=thorough
settings.load_profile("default")
torch.set_num_threads(1)


WITHOUT_REDIS = "redis-server is not installed: the tests marked 'redis' are left out"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a Redis where there is none."""
    needing = [item for item in items if item.get_closest_marker("redis")]
    if BINARY is None and needing:
        items[:] = [item for item in items if item not in needing]
        config.hook.pytest_deselected(items=needing)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was left out."""
    if BINARY is None:
        terminalreporter.write_line(WITHOUT_REDIS, red=True, bold=True)


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command that ran in this process has sent the logs to a standard error that is closed by now."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the project."""
    return ROOT


@pytest.fixture(scope="session")
def digits() -> Images:
    """The 10,000 MNIST test pictures that ship with the project."""
    return load_images(ROOT / "tests/data/mnist-test.npz", "test")


@pytest.fixture(scope="session")
def plain_victim() -> Iterator[TorchVictim]:
    """The same network without a training against theft."""
    yield from _loaded("mnist-lenet")


@pytest.fixture(scope="session")
def shipped_victim() -> Iterator[TorchVictim]:
    """The embedded default's victim, loaded."""
    yield from _loaded("mnist-ini")


def _loaded(name: str) -> Iterator[TorchVictim]:
    victim = TorchVictim(weights=ROOT / f"configs/models/{name}.safetensors", architecture="lenet")
    victim.load(Setup(torch.device("cpu"), b"a secret of the tests"))
    yield victim
    victim.close()
