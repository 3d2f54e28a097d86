"""Puts a key's mark into pictures: the model's pattern and the client's, as strong as a PSNR allows."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from defenses.watermark.carriers import BIT_OF, BITS, TILE, MarkKey, tiles
from defenses.watermark.reading import read_each
from defenses.watermark.seeing import darkness, luma, visibility
from mantlet.likeness import ROUNDING, added

SMALL = 64
"""Pictures with sides up to that many pixels are small."""
PSNR_SMALL, PSNR = 38.0, 40.0
"""What pictures keep where nothing is asked for, in dB."""
SHARE_SMALL, SHARE = 0.3, 0.75
"""Share of the mark's energy that names the client: large pictures have room for both."""
CACHED = 1024
"""Clients whose signs and patterns are kept: 5 KiB each."""
EMPHASIS = (0.6, 2.0)
"""The least and the most strength of a bit in a large picture."""


class Mark:
    """The mark of one model under one secret.

    ``client_share`` of its energy names the client, the rest is the model's; ``psnr`` (dB) is what a picture
    keeps at least. Where they are none they are 0.3 and 38 dB up to 64 pixels a side, 0.75 and 40 dB above.
    ``masking`` in [0, 1] is how much of the mark moves to where it is hard to see, and ``black`` in (0, 1] how much
    of that is on black. What of the pattern is below ``sparse``, in its root mean squares, is not drawn on black.
    """

    def __init__(
        self,
        secret: bytes,
        model: str,
        *,
        client_share: float | None = None,
        psnr: float | None = None,
        masking: float = 0.5,
        black: float = 1.0,
        sparse: float = 0.0,
    ) -> None:
        self.key = MarkKey(secret, model)
        self._share = client_share
        self._psnr = psnr
        self._masking = masking
        self._black = black
        self._sparse = sparse
        self._model = tiles(self.key.model[None])
        self._own = lru_cache(maxsize=CACHED)(self._made)

    def embed(self, images: Tensor, clients: Sequence[str]) -> Tensor:
        """Mark (B, C, H, W) pictures in [0, 1], row i for ``clients[i]``; grey or RGB, of any size.

        Colours get the same change in all channels. Nothing of a row depends on other rows.
        """
        height, width = images.shape[-2:]
        made = {client: self._own(client, height, width) for client in dict.fromkeys(clients)}
        if len(made) == 1:  # as most requests are
            return self._marked(images, *made[clients[0]])
        own, pattern = (torch.cat(part) for part in zip(*(made[c] for c in clients), strict=True))
        return self._marked(images, own, pattern)

    def embed_bits(self, images: Tensor, bits: Tensor) -> Tensor:
        """Mark pictures with (B, BITS) signs of one's own in place of those that name clients."""
        own = self.key.carried(bits)
        return self._marked(images, own, self._mixed(own, *images.shape[-2:]))

    def _made(self, client: str, height: int, width: int) -> tuple[Tensor, Tensor]:
        """(1, COUNT) signs of a client's mark, and the pattern of its pictures of that size, at most a tile of it."""
        own = self.key.payload(client)[None]
        return own, self._mixed(own, height, width)

    def _mixed(self, own: Tensor, height: int, width: int) -> Tensor:
        """The model's pattern and that of (B, COUNT) signs, so much of a tile as a picture shows."""
        share = self._share_at(height, width)
        mixed: Tensor = (1 - share) ** 0.5 * self._model + share**0.5 * tiles(own)
        return mixed[:, None, :height, :width].contiguous()

    def _share_at(self, height: int, width: int) -> float:
        if self._share is not None:
            return self._share
        return SHARE_SMALL if max(height, width) <= SMALL else SHARE

    def _marked(self, images: Tensor, own: Tensor, pattern: Tensor) -> Tensor:
        """Pictures with the mark of (B, COUNT) signs in a pattern (B, 1, h, w); one of each serves all."""
        height, width = images.shape[-2:]
        small = max(height, width) <= SMALL
        asked = self._psnr or (PSNR_SMALL if small else PSNR)
        grey = luma(images)
        seen = visibility(grey, masking=self._masking, black=self._black)
        power = 10 ** (-asked / 10) - ROUNDING

        def marked(pattern: Tensor) -> Tensor:
            shown = _tiled(pattern, images)
            if self._sparse:  # nothing is darker than black: what goes below it is not drawn
                shown = shown - self._sparse * darkness(grey)
            return added(images, shown * seen, power)

        first = marked(pattern)
        if small or not self._share_at(height, width):
            return first
        return marked(self._mixed(own * _emphasis(first, own), height, width))


def _tiled(pattern: Tensor, images: Tensor) -> Tensor:
    """(B, 1, H, W) of patterns, each repeated over its picture (B, C, H, W)."""
    sides = images.shape[-2:]
    if max(sides) <= TILE:
        return pattern.to(images)
    down, across = (torch.arange(side) % TILE for side in sides)
    return pattern[..., down[:, None], across].to(images)


def _emphasis(marked: Tensor, own: Tensor) -> Tensor:
    """(B, COUNT) how much more or less of each bit a picture needs, by what it says of it (B or 1, COUNT signs).

    A bit that the picture speaks against gets some of the energy of those that it speaks for: improved
    spread spectrum (Malvar and Florencio, 2003). Asked is what the picture says resized: what is lost first.
    """
    grey = luma(marked)
    half = functional.interpolate(grey, scale_factor=0.5, mode="bilinear", antialias=True)
    back = functional.interpolate(half, size=grey.shape[-2:], mode="bilinear")
    agreed = (read_each(grey) + 2 * read_each(back)) * own
    bits = torch.zeros(len(agreed), BITS).index_add(1, BIT_OF, agreed)
    needed = (2 - bits / bits.mean(dim=1, keepdim=True).clamp(min=1e-6)).clamp(*EMPHASIS)
    needed = needed[:, BIT_OF]
    return needed / needed.square().mean(dim=1, keepdim=True).sqrt()
