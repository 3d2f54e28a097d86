"""How alike two pictures look: the signal-to-noise ratio and structural similarity."""

import torch
from torch import Tensor, nn

REACH = 5
"""Pixels to each side of the window of structural similarity."""
SMOOTH = 1.5
"""Standard deviation of that window, in pixels."""
DARK, CALM = 0.01**2, 0.03**2
"""What keeps its quotients finite in dark and in flat places."""
NOTHING = 1e-10
"""Mean squares below it count as it: equal pictures have 100 dB."""


def psnr(pictures: Tensor, wanted: Tensor) -> Tensor:
    """(B,) peak signal-to-noise ratios in dB of (B, C, H, W) in [0, 1]; 100 for equal pictures.

    >>> psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.1)).tolist()
    [20.0]
    """
    errors = (pictures - wanted).double().square().flatten(1).mean(dim=1)
    return (-10 * errors.clamp_min(NOTHING).log10()).float()


def ssim(pictures: Tensor, wanted: Tensor) -> Tensor:
    """(B,) structural similarity of (B, C, H, W) in [0, 1]: 1 for equal pictures (Wang et al., 2004).

    Means over pixels and channels, in a Gaussian window; edges are continued.
    """
    both = torch.cat([pictures, wanted])
    means = _windowed(torch.cat([both, both.square(), pictures * wanted]))
    one, other, square, square_other, product = means.chunk(5)
    spread, spread_other = square - one.square(), square_other - other.square()
    light = (2 * one * other + DARK) / (one.square() + other.square() + DARK)
    form = (2 * (product - one * other) + CALM) / (spread + spread_other + CALM)
    return (light * form).flatten(1).mean(dim=1)


def _windowed(pictures: Tensor) -> Tensor:
    taps = torch.arange(-REACH, REACH + 1, dtype=pictures.dtype, device=pictures.device)
    kernel = torch.exp(-0.5 * (taps / SMOOTH) ** 2)
    weights = (kernel / kernel.sum()).tolist()
    for axis, edges in ((3, (REACH, REACH, 0, 0)), (2, (0, 0, REACH, REACH))):
        length = pictures.shape[axis]
        padded = nn.functional.pad(pictures, edges, mode="replicate")
        pictures = padded.narrow(axis, 0, length) * weights[0]
        for at, weight in enumerate(weights[1:], start=1):
            pictures.add_(padded.narrow(axis, at, length), alpha=weight)
    return pictures


def strength_within(pictures: Tensor, change: Tensor, least: float) -> Tensor:
    """(B, 1, 1, 1) share of a ``change`` in [0, 1] at which pictures are still ``least`` alike, by `ssim` of grey.

    The loss grows about as the square of the share; five steps of that come close, from above or below.
    """
    grey, added = (x.mean(dim=1, keepdim=True) for x in (pictures, change))
    share = torch.ones(len(pictures), 1, 1, 1, dtype=pictures.dtype, device=pictures.device)
    room = 1 - least
    for _ in range(5):
        lost = 1 - ssim((grey + share * added).clamp(0, 1), grey)
        if bool((lost <= room).all()):
            break
        share = share * (room / lost.clamp_min(room)).sqrt().view(-1, 1, 1, 1)
    return share
