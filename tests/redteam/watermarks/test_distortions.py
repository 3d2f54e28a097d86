"""What is done to pictures is what its name says."""

import numpy as np
import pytest
import torch

from redteam.watermarks.distortions import LARGE, SMALL, cropped, cropped_each, levels


def pictures(channels: int, side: int) -> torch.Tensor:
    drawn = torch.rand(
        3, channels, side // 4, side // 4, generator=torch.Generator().manual_seed(0)
    )
    return levels(torch.nn.functional.interpolate(drawn, size=(side, side), mode="bilinear"))


@pytest.mark.parametrize("name", [*LARGE, *SMALL])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_stay_pictures_of_8_bits(name: str, channels: int) -> None:
    before = pictures(channels, 64)
    after = (LARGE | SMALL)[name](before, np.random.default_rng(0))

    assert after.shape[:2] == before.shape[:2]
    assert torch.allclose(after, levels(after), atol=1e-6)
    assert (after.shape == before.shape) is ("crop" not in name)
    assert (name == "none") is (after.shape == before.shape and torch.equal(after, before))


def test_coarser_jpeg_and_more_noise_are_farther_from_the_picture() -> None:
    before, rng = pictures(3, 64), np.random.default_rng(0)
    far = [float((LARGE[f"jpeg {q}"](before, rng) - before).square().mean()) for q in (90, 70, 50)]

    assert 0 < far[0] < far[1] < far[2]


def test_a_crop_keeps_its_share_of_each_side_from_one_place_or_from_several() -> None:
    before = torch.arange(32.0 * 32).view(1, 1, 32, 32).expand(20, 1, 32, 32)
    together = cropped(before, np.random.default_rng(0), side=0.5)
    apart = cropped_each(before, np.random.default_rng(0), side=0.5)

    assert together.shape == apart.shape == (20, 1, 16, 16)
    assert len(together[:, 0, 0, 0].unique()) == 1
    assert len(apart[:, 0, 0, 0].unique()) > 5
