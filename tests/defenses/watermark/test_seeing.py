"""What an eye sees of a mark, and what is left of a picture where one is looked for."""

import pytest
import torch
from torch.nn import functional

from defenses.watermark.seeing import (
    EDGE,
    _box,
    _cropped,
    _roomy,
    darkness,
    luma,
    residual,
    visibility,
)


def test_green_is_brightest_and_grey_is_itself() -> None:
    red, green, blue = (torch.eye(3)[i].view(1, 3, 1, 1) for i in range(3))

    assert luma(green) > luma(red) > luma(blue)
    assert torch.allclose(luma(torch.full((1, 3, 1, 1), 0.4)), torch.tensor(0.4))


def test_a_mark_hides_in_texture_and_in_the_dark_and_not_on_flat_grey() -> None:
    grey, black = torch.full((1, 1, 20, 20), 0.5), torch.zeros(1, 1, 20, 20)
    texture = grey + 0.2 * torch.randn(grey.shape, generator=torch.Generator().manual_seed(0))
    flat, dark, busy = (visibility(p).mean() for p in (grey, black, texture))

    assert flat < dark < busy
    assert visibility(torch.rand(4, 1, 9, 9)).min() >= 0.5
    assert visibility(torch.rand(4, 1, 9, 9)).max() <= 2


def test_less_of_a_mark_may_be_on_black_and_as_much_elsewhere() -> None:
    black, dim, grey = (torch.full((1, 1, 9, 9), level) for level in (0.0, 0.05, 0.3))
    few = [visibility(p, black=0.2) / visibility(p) for p in (black, dim, grey)]

    assert [round(float(share.mean()), 5) for share in few] == [0.2, 0.6, 1.0]


def test_without_masking_a_mark_is_everywhere_alike_and_with_half_of_it_half_way() -> None:
    picture = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    for black in (1.0, 0.2):
        full, half, none = (
            visibility(picture, masking=masking, black=black) for masking in (1.0, 0.5, 0.0)
        )

        assert torch.allclose(none, torch.ones(1))
        assert torch.allclose(half, (full + 1) / 2, atol=1e-6)


def test_a_window_is_dark_as_far_as_its_mean_is_near_black() -> None:
    levels = [darkness(torch.full((1, 1, 5, 5), level)) for level in (0.0, 0.05, 0.1, 1.0)]

    assert [round(float(level.mean()), 5) for level in levels] == [1.0, 0.5, 0.0, 0.0]


def test_of_an_edge_little_is_left_and_of_a_faint_pattern_most() -> None:
    faint = 0.01 * torch.sin(torch.arange(32) * 2.0).expand(1, 1, 32, 32)
    edge = (torch.arange(32) >= 16).float().expand(1, 1, 32, 32)

    assert residual(edge).abs().max() < 0.01
    assert (residual(0.5 + faint) * faint).sum() > 0.7 * faint.square().sum()
    assert (residual(edge * 0.8 + 0.1 + faint) * faint).sum() > 0.5 * faint.square().sum()


def test_no_pixel_speaks_louder_than_its_windows_let_it() -> None:
    """What is d off the mean of nine raises their variance by d^2 / 8 or more: sqrt(2) times EDGE at most is left."""
    noise = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    spike = torch.zeros(1, 1, 9, 9)
    spike[..., 4, 4] = 9 / 8 * 8**0.5 * EDGE

    assert residual(spike).max() == pytest.approx(2**0.5 * EDGE, rel=1e-4)
    for picture in (noise, 0.1 * noise.round(), noise.round()):
        assert residual(picture).abs().max() <= 2**0.5 * EDGE


def test_pictures_of_one_pixel_are_read() -> None:
    assert residual(torch.rand(2, 1, 1, 1)).shape == (2, 1, 1, 1)


def test_means_over_windows_are_those_of_pooling_also_at_the_border() -> None:
    for height, width in [(1, 1), (1, 7), (2, 2), (28, 30)]:
        values = torch.rand(3, 1, height, width)
        pooled = functional.avg_pool2d(values, 3, 1, 1, count_include_pad=False)

        assert torch.allclose(_cropped(_box(_roomy(values, 1))[0], values), pooled, atol=1e-6)
