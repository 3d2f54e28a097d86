"""Cells of any size, of pictures and of lines."""

import pytest
import torch

from mantlet import regions
from tests.helpers import rows


def test_a_cell_has_the_mean_magnitude_of_its_values() -> None:
    maps = rows(2, shape=(3, 8, 8)) - 0.5
    cells = regions.magnitudes(maps, 4)

    assert cells.shape == (2, 2, 2)
    assert torch.allclose(cells[1, 0, 1], maps[1, :, :4, 4:].abs().mean())


def test_cells_at_the_edge_are_smaller_and_count_what_there_is() -> None:
    maps = rows(1, shape=(1, 5, 7))
    cells = regions.magnitudes(maps, 4)

    assert cells.shape == (1, 2, 2)
    assert torch.allclose(cells[0, 1, 1], maps[0, 0, 4:, 4:].mean())


def test_a_line_has_cells_too() -> None:
    maps = rows(2, shape=(10,))

    assert torch.allclose(regions.magnitudes(maps, 4)[:, 0, 2], maps[:, 8:].mean(dim=1))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (10,), (1,)])
@pytest.mark.parametrize("cell", [1, 3, 4, 100])
def test_painted_cells_have_their_own_magnitudes(shape: tuple[int, ...], cell: int) -> None:
    maps = rows(2, shape=shape)
    cells = regions.magnitudes(maps, cell)
    painted = regions.spread(cells, maps, cell)

    assert painted.shape == maps.shape
    assert torch.allclose(regions.magnitudes(painted, cell), cells)


def test_shares_are_of_the_largest_of_the_row() -> None:
    shares = regions.scaled(torch.tensor([[2.0, -4.0], [0.0, 0.0]]))

    assert shares.tolist() == [[0.5, -1.0], [0.0, 0.0]]
