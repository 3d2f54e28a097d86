"""Puts a key's mark into pictures: the model's pattern and the client's, as strong as a PSNR allows."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from defenses.watermark.carriers import TILE, MarkKey, tiles
from defenses.watermark.seeing import luma, visibility

SMALL = 64
"""Pictures with sides up to that many pixels are small."""
PSNR_SMALL, PSNR = 38.0, 40.0
"""What pictures keep where nothing is asked for, in dB."""
SHARE_SMALL, SHARE = 0.4, 0.7
"""Share of the mark's energy that names the client: large pictures have room for both."""
ROUNDING = 1 / 4 / 255**2
"""The most that rounding to 8 bits adds to a mean square: half a level, squared."""
STRONGEST = 3.0
"""The pattern grows to that many times its strength where clipping takes a part of it."""
CACHED = 1024
"""Patterns of clients that are kept: 4 KiB each."""


class Mark:
    """The mark of one model under one secret.

    ``client_share`` of its energy names the client, the rest is the model's; ``psnr`` (dB) is what a picture
    keeps at least. Where they are none they are 0.4 and 38 dB up to 64 pixels a side, 0.7 and 40 dB above.
    ``masking`` in [0, 1] is how much of the mark moves to where it is hard to see.
    """

    def __init__(
        self,
        secret: bytes,
        model: str,
        *,
        client_share: float | None = None,
        psnr: float | None = None,
        masking: float = 0.5,
    ) -> None:
        self.key = MarkKey(secret, model)
        self._share = client_share
        self._psnr = psnr
        self._masking = masking
        self._tile = lru_cache(maxsize=CACHED)(self._made)

    def embed(self, images: Tensor, clients: Sequence[str]) -> Tensor:
        """Mark (B, C, H, W) pictures in [0, 1], row i for ``clients[i]``; grey or RGB, of any size.

        Colours get the same change in all channels. Nothing of a row depends on other rows.
        """
        height, width = images.shape[-2:]
        small = max(height, width) <= SMALL
        share = self._share if self._share is not None else SHARE_SMALL if small else SHARE
        down, across = torch.arange(height) % TILE, torch.arange(width) % TILE
        own = torch.stack([self._tile(client) for client in clients])
        pattern = (1 - share) ** 0.5 * self._tile(None) + share**0.5 * own
        pattern = pattern[:, down[:, None], across].unsqueeze(1).to(images)  # (B, 1, H, W)
        if self._masking:
            seen = visibility(luma(images))
            pattern = pattern * torch.lerp(torch.ones_like(seen), seen, self._masking)
        asked = self._psnr or (PSNR_SMALL if small else PSNR)
        return _added(images, pattern, 10 ** (-asked / 10) - ROUNDING)

    def _made(self, client: str | None) -> Tensor:
        signs = self.key.model if client is None else self.key.payload(client)
        return tiles(signs[None])[0]


def _added(images: Tensor, pattern: Tensor, power: float) -> Tensor:
    """Pictures with as much of the (B, 1, H, W) pattern as changes their mean square by ``power``."""
    first = _level(power, pattern)
    # Clipping leaves room. A change grows at most as its strength does, so it never exceeds the power.
    strength = first
    for _ in range(2):
        change = (images + strength * pattern).clamp(0, 1) - images
        strength = torch.minimum(strength * _level(power, change), STRONGEST * first)
    return (images + strength * pattern).clamp(0, 1)


def _level(power: float, change: Tensor) -> Tensor:
    """(B, 1, 1, 1) factor that brings the mean square of a row's change to ``power``."""
    return (power / change.square().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)).sqrt()
