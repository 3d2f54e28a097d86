"""Measures of maps for people: what ranks alike, what finds the place, what does neither."""

import pytest
import torch
from torch import Tensor

from redteam.explanations import maps
from redteam.explanations.explainable import gradients, network


def drawn(count: int = 40, seed: int = 0) -> maps.Task:
    return maps.drawn(count, generator=torch.Generator().manual_seed(seed))


def test_maps_rank_like_themselves_whatever_their_sign_and_scale() -> None:
    true = torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    other = torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(1))

    assert maps.rank_correlation(true, -3 * true) == pytest.approx(1.0)
    assert abs(maps.rank_correlation(true, other)) < 0.3


def test_a_flat_map_ranks_nothing() -> None:
    true = torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    assert maps.rank_correlation(true, torch.ones_like(true)) == 0.0


def test_true_maps_take_the_answer_away_sooner_than_others() -> None:
    inside, generator = network("mnist"), torch.Generator().manual_seed(0)
    pictures = torch.rand(20, 1, 28, 28, generator=generator)
    true = gradients(inside, pictures)
    deletion, insertion = maps.areas(inside, pictures, true)
    backwards = maps.areas(inside, pictures, 1 / (true.abs() + 1e-6))

    assert deletion < backwards[0]
    assert 0 <= insertion <= 1


def test_a_drawn_shape_is_where_it_is_said_to_be() -> None:
    task = drawn()
    spots = torch.zeros_like(task.pictures)
    for spot, (y, x) in zip(spots, task.corners.tolist(), strict=True):
        spot[0, y : y + maps.SIDE, x : x + maps.SIDE] = 1

    assert float(task.pictures[spots == 0].max()) <= 0.4
    assert float(task.pictures[spots == 1].max()) == 1.0
    assert set(task.labels.tolist()) == set(range(maps.SHAPES))


def test_a_map_that_is_bright_at_the_shape_points_and_one_elsewhere_does_not() -> None:
    task = drawn()
    here, there = _marked(task, 3), _marked(task, -6)

    assert maps.pointing(here, task) == 1.0
    assert maps.pointing(there, task) < 0.2


def _marked(task: maps.Task, offset: int) -> Tensor:
    marks = torch.zeros_like(task.pictures)
    for mark, corner in zip(marks, task.corners.tolist(), strict=True):
        y, x = ((place + offset) % 28 for place in corner)
        mark[0, y, x] = 1
    return marks


def test_the_small_network_learns_the_task_and_its_gradients_point_at_the_shape() -> None:
    generator = torch.Generator().manual_seed(0)
    inside = maps.learned(generator, rows=1000, steps=250)
    task = maps.drawn(200, generator=generator)
    right = inside(task.pictures).argmax(dim=1) == task.labels

    assert float(right.float().mean()) > 0.9
    assert maps.pointing(gradients(inside, task.pictures), task) > 0.5
