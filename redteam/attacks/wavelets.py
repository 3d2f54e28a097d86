"""The discrete wavelet transform of pictures as PyWavelets has it, through which gradients flow."""

from typing import Literal

import torch
from torch import Tensor, nn

Basis = Literal["haar", "db3"]
LOW: dict[str, tuple[float, ...]] = {
    "haar": (0.5**0.5, 0.5**0.5),
    "db3": (
        0.03522629188570953,
        -0.08544127388202666,
        -0.13501102001025458,
        0.45987750211849154,
        0.8068915093110925,
        0.33267055295008263,
    ),
}
"""Low-pass filters of decomposition (Daubechies, 1992); the high-pass is the mirror of each."""


def high_bands(pictures: Tensor, *, basis: Basis = "db3", levels: int = 2) -> list[Tensor]:
    """Detail bands of each level, finest first: (B, 3 C, h, w) of (B, C, H, W); zeros lie outside.

    Of each channel come horizontal, vertical and diagonal details, in this order.
    """
    bands = []
    for _ in range(levels):
        batch, channels, height, width = pictures.shape
        split = _split(pictures.reshape(-1, 1, height, width), basis)
        parts = split.view(batch, channels, 4, *split.shape[2:])
        bands.append(parts[:, :, 1:].flatten(1, 2))
        pictures = parts[:, :, 0]
    return bands


def _split(pictures: Tensor, basis: Basis) -> Tensor:
    """(B, 4, h, w) approximation and details of (B, 1, H, W)."""
    low = torch.tensor(LOW[basis], dtype=pictures.dtype)
    length = len(low)
    high = low.flip(0) * torch.tensor([-1.0, 1.0], dtype=low.dtype).repeat(length // 2)
    pair = torch.stack([low.flip(0), high.flip(0)])  # flipped: conv2d correlates
    # the first letter of a band is what is done down the rows: aa, da, ad, dd
    kernels = torch.stack(
        [torch.outer(pair[d], pair[a]) for d, a in ((0, 0), (1, 0), (0, 1), (1, 1))]
    )
    sides = (length - 2, length - 1)
    padded = nn.functional.pad(pictures, (*sides, *sides))
    return nn.functional.conv2d(padded, kernels[:, None], stride=2)


def high_band_error(pictures: Tensor, wanted: Tensor, *, basis: Basis, levels: int) -> Tensor:
    """Sum over levels of the mean absolute difference between detail bands: a scalar."""
    pairs = zip(
        high_bands(pictures, basis=basis, levels=levels),
        high_bands(wanted, basis=basis, levels=levels),
        strict=True,
    )
    return torch.stack([(one - other).abs().mean() for one, other in pairs]).sum()
