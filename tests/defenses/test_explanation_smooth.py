"""Blurred as a Gaussian blurs, with noise that a key draws."""

import pytest
import torch

from defenses.explanation_smooth import ExplanationSmooth
from mantlet.plugin import Setup
from mantlet.types import Kind, Prediction
from tests.helpers import SETUP, query


def smoothed(
    maps: torch.Tensor, *, secret: bytes = SETUP.secret, **settings: float
) -> torch.Tensor:
    defense = ExplanationSmooth.model_validate(settings)
    defense.load(Setup(SETUP.device, secret))
    return defense(Prediction(maps, Kind.ATTRIBUTIONS), query(maps.abs()), {}).values


def test_a_point_becomes_a_gaussian() -> None:
    maps = torch.zeros(1, 1, 15, 15)
    maps[0, 0, 7, 7] = 1.0
    values = smoothed(maps, sigma=1.0, noise=0.0)[0, 0]

    assert float(values.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(values[7, 8] / values[7, 7]) == pytest.approx(0.6065, abs=1e-3)  # exp(-1/2)
    assert float(values[8, 8] / values[7, 7]) == pytest.approx(0.3679, abs=1e-3)  # exp(-1)


def test_a_flat_map_stays_flat_to_the_edge() -> None:
    maps = torch.full((1, 3, 9, 5), -2.0)

    assert torch.allclose(smoothed(maps, noise=0.0), maps)


def test_noise_is_as_strong_as_its_share_of_the_map() -> None:
    maps = 7.0 * torch.ones(4, 1, 28, 28)
    added = smoothed(maps, noise=0.5) - maps

    assert float(added.std()) == pytest.approx(3.5, rel=0.05)


def test_the_noise_is_keyed() -> None:
    maps = torch.ones(1, 1, 8, 8)

    assert not torch.allclose(smoothed(maps), smoothed(maps, secret=b"another secret"))
