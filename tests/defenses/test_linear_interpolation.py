import numpy as np
import pytest
import torch
from torch import Tensor

from defenses.linear_interpolation import LinearInterpolation, arc
from tests.helpers import SETUP, query


def loaded(anchors: int = 6, points: int = 9) -> LinearInterpolation:
    defense = LinearInterpolation(anchors=anchors, points=points)
    defense.load(SETUP)
    return defense


def latents(rows: int, size: int = 64) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(0))


def drawn(seed: int, rows: int = 4000, size: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, size))


def test_the_norm_of_a_latent_is_kept_where_a_straight_mix_halves_its_square() -> None:
    start, end, half = drawn(0), drawn(1), np.full(4000, 0.5)
    straight, between = (start + end) / 2, arc(start, end, half)

    assert np.square(straight).sum(axis=1).mean() / 64 == pytest.approx(0.5, abs=0.02)
    assert np.square(between).sum(axis=1).mean() / 64 == pytest.approx(1.0, abs=0.02)


def test_an_arc_goes_from_one_end_to_the_other() -> None:
    start, end = drawn(0, 3), drawn(1, 3)

    assert np.allclose(arc(start, end, np.zeros(3)), start)
    assert np.allclose(arc(start, end, np.ones(3)), end)


def test_opposite_and_equal_ends_have_a_point_between_them_too() -> None:
    start = drawn(0, 2)
    ends = np.stack([-start[0], start[1]])

    assert np.allclose(arc(start, ends, np.array([0.4, 0.6])), start)


@pytest.mark.parametrize("many", [6, 7])
def test_a_row_lies_on_an_arc_between_the_anchors_of_a_pair(many: int) -> None:
    defense = loaded(many)
    anchors = defense.drawn(["client"] * 6, np.arange(6), 64)
    rows = defense(query(latents(200))).inputs.double().numpy()
    left = [
        min(np.linalg.lstsq(pair.T, row, rcond=None)[1][0] for pair in anchors.reshape(3, 2, 64))
        for row in rows
    ]  # squared distance to the nearest of the planes that two anchors span

    assert max(left) < 1e-6


def test_as_many_pictures_as_points_on_all_segments_and_no_more() -> None:
    found = torch.unique(loaded()(query(latents(3000))).inputs, dim=0)

    assert len(found) == 3 * 9


def test_without_points_every_row_has_a_place_of_its_own() -> None:
    found = torch.unique(loaded(points=0)(query(latents(3000))).inputs, dim=0)

    assert len(found) == 3000
