import numpy as np
import pytest
import torch

from mantlet.errors import ConfigError
from mantlet.sheets import GAP, contact_sheet


def test_pictures_stand_row_by_row_with_black_between() -> None:
    images = torch.arange(1, 6)[:, None, None, None].expand(5, 1, 4, 3) / 255.0
    sheet = np.asarray(contact_sheet(images))

    assert sheet.shape == (2 * 4 + GAP, 3 * 3 + 2 * GAP)
    assert [sheet[0, 5 * n] for n in range(3)] == [1, 2, 3]
    assert [sheet[6, 5 * n] for n in range(3)] == [4, 5, 0]
    assert not sheet[4:6].any()
    assert not sheet[:, 3:5].any()


def test_columns_can_be_chosen() -> None:
    assert contact_sheet(torch.rand(6, 1, 8, 8), columns=6).size == (6 * 8 + 5 * GAP, 8)


def test_colours_stay_colours_and_values_outside_are_clipped() -> None:
    images = torch.tensor([2.0, -1.0, 0.5]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    sheet = contact_sheet(images)

    assert sheet.mode == "RGB"
    assert sheet.getpixel((0, 0)) == (255, 0, 128)


@pytest.mark.parametrize("shape", [(0, 1, 4, 4), (2, 2, 4, 4), (1, 4, 4)])
def test_what_is_no_pictures_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="a sheet of pictures of shape"):
        contact_sheet(torch.zeros(shape))
