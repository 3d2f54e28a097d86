"""What the key decides: the signs of the mark's waves, and the bits that name a client."""

from functools import cached_property
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

TILE = 32
"""The mark repeats after so many pixels: a multiple of the strides 2, 4, 8, 16 and 32 of what may copy it."""
SLOWEST, FASTEST = 2.0, 9.5
"""Waves of the mark, in periods a tile: between what pictures are made of and what compression drops."""
BITS = 32
"""Bits that name a client."""


def _band() -> np.ndarray:
    """(K, 2) rows and columns of a tile's spectrum, slow waves first; of two conjugates one."""
    steps = np.arange(TILE)
    waves = np.minimum(steps, TILE - steps) * np.where(steps < TILE // 2, 1, -1)
    down, across = np.meshgrid(waves, waves, indexing="ij")
    radius = np.hypot(down, across)
    half = (across > 0) | ((across == 0) & (down > 0))
    rows, columns = np.nonzero(half & (radius >= SLOWEST) & (radius < FASTEST))
    order = np.argsort(radius[rows, columns], kind="stable")
    return np.stack([rows[order], columns[order]], axis=1)


BAND = torch.from_numpy(_band())
"""(K, 2) the waves of the mark in the spectrum of a tile."""
COUNT = 2 * len(BAND)
"""Signs of a pattern: of the real and of the imaginary part of each wave."""
BIT_OF = torch.arange(COUNT) % BITS
"""(COUNT,) which bit each sign carries: every bit gets slow and fast waves alike."""


def radii() -> Tensor:
    """(K,) periods a tile of the waves."""
    waves = torch.where(BAND < TILE // 2, BAND, BAND - TILE)
    lengths: Tensor = waves.double().norm(dim=1)
    return lengths


def tiles(signs: Tensor) -> Tensor:
    """(n, COUNT) signs to (n, TILE, TILE) patterns of mean square 1.

    >>> patterns = tiles(torch.ones(1, COUNT))
    >>> round(patterns.square().mean().item(), 4)
    1.0
    """
    waves = torch.view_as_complex(signs.reshape(len(signs), -1, 2).contiguous())
    spectrum = torch.zeros(len(signs), TILE, TILE, dtype=torch.complex64)
    spectrum[:, BAND[:, 0], BAND[:, 1]] = waves.to(torch.complex64)
    patterns: Tensor = torch.fft.ifft2(spectrum).real * (TILE**2 / len(BAND) ** 0.5)
    return patterns


class MarkKey:
    """All signs and bits of one model's mark, each a function of the gateway's ``secret`` and the ``model``."""

    def __init__(self, secret: bytes, model: str) -> None:
        base = blake2b(secret, digest_size=32, person=b"watermark").digest()
        self._root = blake2b(model.encode(), digest_size=32, key=base).digest()

    @cached_property
    def model(self) -> Tensor:
        """(COUNT,) signs of the model's own mark, the same in every picture."""
        return self._signs(b"model")

    @cached_property
    def client(self) -> Tensor:
        """(COUNT,) signs on which the bits of clients are written."""
        return self._signs(b"client")

    def bits(self, client: str) -> Tensor:
        """(BITS,) signs that name a client."""
        name = client.encode("utf-8", "surrogatepass")
        return _expand(
            blake2b(name, digest_size=BITS // 8, key=self._root, person=b"bits").digest()
        )

    def payload(self, client: str) -> Tensor:
        """(COUNT,) signs of a client's mark."""
        return self.carried(self.bits(client))

    def carried(self, bits: Tensor) -> Tensor:
        """(..., BITS) signs to the (..., COUNT) signs that carry them."""
        return bits[..., BIT_OF] * self.client

    def _signs(self, role: bytes) -> Tensor:
        return _expand(blake2b(digest_size=64, key=self._root, person=role).digest())[:COUNT]


def _expand(digest: bytes) -> Tensor:
    """The bits of a digest as signs."""
    bits = np.unpackbits(np.frombuffer(digest, dtype=np.uint8))
    return torch.from_numpy(bits.astype(np.float32) * 2 - 1)
