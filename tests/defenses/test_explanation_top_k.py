"""The mask marks the strongest cells, as many as were asked for."""

import torch

from defenses.explanation_top_k import ExplanationTopK
from mantlet.types import Kind, Prediction
from tests.helpers import query


def masked(maps: torch.Tensor, **settings: float) -> torch.Tensor:
    defense = ExplanationTopK.model_validate({"cell": 4} | settings)
    return defense(Prediction(maps, Kind.ATTRIBUTIONS), query(maps), {}).values


def test_a_share_of_the_cells_is_marked() -> None:
    mask = masked(torch.randn(5, 1, 28, 28), share=0.2)

    assert mask.unique().tolist() == [0.0, 1.0]
    assert mask.sum(dim=(1, 2, 3)).tolist() == [10 * 16] * 5  # of 49 cells


def test_the_strongest_cells_are_marked_whatever_their_sign() -> None:
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 0, 0], maps[0, 0, 7, 7], maps[0, 0, 0, 7] = -3.0, 2.0, 1.0
    mask = masked(maps, share=0.5)[0, 0]

    assert mask[::4, ::4].tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_of_equal_cells_the_first_count() -> None:
    mask = masked(torch.ones(1, 1, 8, 8), share=0.5)[0, 0]

    assert mask[::4, ::4].tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_a_cell_without_magnitude_is_never_marked() -> None:
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 0, 0] = 1.0

    assert float(masked(maps, share=1.0).sum()) == 16
