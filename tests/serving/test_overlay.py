"""The picture that people get of an explanation."""

import numpy as np
import torch

from serving.overlay import LINE, SIDE, overlay
from tests.helpers import rows


def pixels(inputs: torch.Tensor, maps: torch.Tensor) -> np.ndarray:
    """(H, W, 3) of the sheet."""
    return np.asarray(overlay(inputs, maps, ["class 1"] * len(inputs)), np.float32) / 255


def test_what_speaks_for_is_red_and_what_speaks_against_is_blue() -> None:
    maps = torch.zeros(1, 1, 28, 28)
    maps[0, 0, 0, 0], maps[0, 0, 27, 27] = 1.0, -1.0
    shown = pixels(torch.full((1, 1, 28, 28), 0.5), maps)
    red, blue, plain = shown[2, 2], shown[SIDE - 2, SIDE - 2], shown[SIDE // 2, SIDE // 2]

    assert red[0] > 2 * red[2]
    assert blue[2] > 2 * blue[0]
    assert np.ptp(plain) == 0.0


def test_a_small_row_is_large_enough_to_be_seen_with_its_text() -> None:
    shown = pixels(rows(1, shape=(1, 8, 8)), torch.zeros(1, 1, 8, 8))

    assert shown.shape == (SIDE + LINE, SIDE, 3)
    assert shown[SIDE:].max() > 0.9


def test_a_large_row_is_not_shrunk() -> None:
    assert pixels(rows(1, shape=(3, 300, 250)), torch.zeros(1, 3, 300, 250)).shape[0] == 300 + LINE


def test_several_rows_are_a_sheet() -> None:
    shown = pixels(rows(4, shape=(1, 28, 28)), torch.randn(4, 1, 28, 28))

    assert shown.shape[0] > 2 * SIDE
    assert shown.shape[1] > 2 * SIDE


def test_the_channels_of_colour_pictures_are_seen_together() -> None:
    maps = torch.zeros(1, 3, 28, 28)
    maps[0, 0, 0, 0], maps[0, 1, 0, 0], maps[0, 2, 9, 9] = 2.0, -2.0, 1.0
    shown = pixels(torch.zeros(1, 3, 28, 28), maps)

    assert np.ptp(shown[2, 2]) == 0.0, "they cancel each other"
    assert shown[9 * 8 + 2, 9 * 8 + 2, 0] > 0.5


def test_nothing_in_row_or_map_is_no_error() -> None:
    shown = pixels(torch.zeros(1, 1, 28, 28), torch.zeros(1, 1, 28, 28))

    assert np.isfinite(shown).all()
