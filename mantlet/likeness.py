"""How alike two pictures look: the signal-to-noise ratio and structural similarity."""

import numpy as np
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
EASED = 0.98
"""How much further than needed a change that is too strong is cut, so that few rounds are enough."""
STRONGEST = 3.0
"""A pattern grows to that many times its strength where clipping takes a part of it."""
ROUNDING = 1 / 2 / 255**2
"""The most that rounding both pictures to 8 bits adds to a mean square: half a level squared, twice."""
ROUNDS = 12
"""Cuts after which a change is given up."""


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


@torch.no_grad()
def strength_within(pictures: Tensor, change: Tensor, least: float) -> Tensor:
    """(B, 1, 1, 1) share of a ``change`` in [0, 1] at which pictures in [0, 1] stay ``least`` alike, by `ssim` of grey.

    The loss grows about as the square of the share, so the share falls by that and a little more until the
    picture is seen to keep it; a picture that still does not gets no change at all.
    """
    grey, room = pictures.mean(dim=1, keepdim=True), 1 - least
    share = torch.ones(len(pictures), 1, 1, 1, dtype=pictures.dtype, device=pictures.device)
    for _ in range(ROUNDS):
        changed = (pictures + share * change).clamp(0, 1).mean(dim=1, keepdim=True)
        lost = 1 - ssim(changed, grey).view(-1, 1, 1, 1)
        kept = lost <= room
        if bool(kept.all()):
            return share
        share = torch.where(kept, share, share * EASED * (room / lost.clamp_min(room)).sqrt())
    return share * kept


def added(pictures: Tensor, pattern: Tensor, power: float) -> Tensor:
    """Pictures with as much of the (B, 1, H, W) pattern as changes their mean square by ``power``.

    Gradients reach the pattern, and take its strength for given.
    """
    clean = pictures.numpy(force=True)
    taken, strength = _taken(clean, pattern.numpy(force=True), power)
    if pattern.requires_grad:
        return torch.addcmul(pictures, torch.from_numpy(strength).to(pictures), pattern).clamp(0, 1)
    return torch.from_numpy(np.subtract(clean, taken, out=taken)).to(pictures)


def _taken(
    pictures: np.ndarray, pattern: np.ndarray, power: float
) -> tuple[np.ndarray, np.ndarray]:
    """(B, C, H, W) what a pattern takes from pictures, and (B, 1, 1, 1) how much of it is added to do so.

    A step over small pictures takes longer to begin than to do, and begins sooner in NumPy; torch is faster where
    each row has a number of its own.
    """
    strength = np.sqrt(power * pattern[0].size / np.maximum(_energy(pattern), NOTHING**2))
    wanted, most = power * pictures[0].size, STRONGEST * strength
    over = pictures - 1.0
    taken = (torch.from_numpy(pattern) * torch.from_numpy(-strength)).numpy()
    taken = np.minimum(taken, pictures)
    np.maximum(taken, over, out=taken)
    # Clipping leaves room. A change grows at most as its strength does, so it never exceeds the power.
    for _ in range(2):
        stronger = strength * np.sqrt(wanted / np.maximum(_energy(taken), NOTHING**2))
        np.minimum(stronger, most, out=stronger)
        torch.from_numpy(taken).mul_(torch.from_numpy(stronger / strength))
        np.minimum(taken, pictures, out=taken)
        np.maximum(taken, over, out=taken)
        strength = stronger
    return taken, strength


def _energy(change: np.ndarray) -> np.ndarray:
    """(B, 1, 1, 1) sums of squares of rows."""
    rows = change.reshape(len(change), 1, 1, -1)
    sums: np.ndarray = rows @ rows.transpose(0, 1, 3, 2)
    return sums
