"""Signal-to-noise ratio and structural similarity, beside torchmetrics."""

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from mantlet import likeness


def pictures(count: int = 4, side: int = 40, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(count, 3, 8, 8, generator=generator)
    return nn.functional.interpolate(rough, size=(side, side), mode="bilinear")


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
def test_similarity_is_that_of_torchmetrics_but_for_the_edge(noise: float) -> None:
    one = pictures(side=80)
    generator = torch.Generator().manual_seed(1)
    other = (one + noise * torch.randn(one.shape, generator=generator)).clamp(0, 1)
    theirs = structural_similarity_index_measure(
        other, one, data_range=1.0, reduction="none", sigma=1.5, kernel_size=11
    )

    assert torch.allclose(likeness.ssim(other, one), theirs, atol=0.01)


def test_equal_pictures_are_alike_whatever_they_show() -> None:
    flat = torch.full((1, 1, 5, 5), 0.3)

    assert torch.allclose(likeness.ssim(flat, flat), torch.ones(1))
    assert likeness.psnr(flat, flat).tolist() == [100.0]


@pytest.mark.parametrize("least", [0.9, 0.98])
def test_a_change_is_cut_to_what_similarity_allows_and_not_further(least: float) -> None:
    one = pictures()
    generator = torch.Generator().manual_seed(2)
    change = 0.3 * torch.randn(4, 1, 40, 40, generator=generator).expand(one.shape).clone()
    change[0] *= 1e-3  # small enough already
    share = likeness.strength_within(one, change, least)
    grey = one.mean(dim=1, keepdim=True)
    alike = likeness.ssim((one + share * change).clamp(0, 1).mean(dim=1, keepdim=True), grey)

    assert share[0] == 1.0
    assert alike.min() >= least - 1e-6
    assert (alike[1:] - least).max() < 0.01


def test_a_change_that_no_cut_makes_small_enough_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(likeness, "ROUNDS", 1)
    one = pictures()
    change = torch.randn(one.shape, generator=torch.Generator().manual_seed(3))
    change[0] = 0

    assert likeness.strength_within(one, change, 0.99).flatten().tolist() == [1.0, 0.0, 0.0, 0.0]


def test_a_pattern_changes_pictures_by_its_power_where_clipping_leaves_room() -> None:
    one, pattern = (
        pictures(side=28),
        torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(1)),
    )
    one[0], one[1] = 0.0, 1.0
    changed = likeness.added(one, pattern, 1e-4)
    powers = (changed - one).square().mean(dim=(1, 2, 3))

    assert 0 <= changed.min() <= changed.max() <= 1
    assert torch.allclose(powers, torch.tensor(1e-4), rtol=0.01)


def test_a_pattern_of_nothing_and_one_that_is_all_clipped_change_nothing() -> None:
    black = torch.zeros(2, 1, 8, 8)
    patterns = torch.stack([torch.zeros(1, 8, 8), -torch.ones(1, 8, 8)])

    assert torch.equal(likeness.added(black, patterns, 1e-4), black)


def test_gradients_reach_a_pattern_and_the_pictures_are_the_same() -> None:
    one, pattern = (
        pictures(side=28),
        torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(1)),
    )
    plain = likeness.added(one, pattern, 1e-4)
    learned = likeness.added(one, pattern.requires_grad_(), 1e-4)
    learned.square().sum().backward()

    assert torch.allclose(learned, plain, atol=1e-6)
    assert pattern.grad is not None
    assert pattern.grad.abs().sum() > 0
