"""What pictures say about any mark, before a key is asked: the waves that are left of them, tile upon tile."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from defenses.watermark.carriers import BAND, TILE, radii
from defenses.watermark.seeing import luma, residual
from mantlet.finite import all_finite

CHUNK = 2_000_000
"""Pixels that are read at once."""
ENOUGH = 8
"""From so many pictures on, what differs between them is told from what all share."""
SOFT = 1.0
"""Strength, in that of an ordinary wave, from which on a wave's vote grows little."""


@dataclass(frozen=True)
class Reading:
    """The waves of n pictures, as they are and mirrored: ``waves`` (n, 2, K) complex; (height, width) of each."""

    waves: Tensor
    sizes: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.sizes)

    @classmethod
    def joined(cls, parts: Sequence["Reading"]) -> "Reading":
        """What was read in parts."""
        empty = torch.zeros(0, 2, len(BAND), dtype=torch.complex64)
        return cls(
            torch.cat([empty, *(part.waves for part in parts)]),
            [size for part in parts for size in part.sizes],
        )

    def first(self, count: int) -> "Reading":
        """Of the first ``count`` pictures."""
        return Reading(self.waves[:count], self.sizes[:count])

    @cached_property
    def whitened(self) -> Tensor:
        """(n, 2, K): waves brought to one strength, and none so strong that it outvotes the others.

        The strength of a wave is what differs between pictures, or that of its ring where there are few.
        Phases stay, so moving the pictures changes nothing.
        """
        if len(self) < ENOUGH:
            return softened(self.waves, _of_rings(_power(self.waves).mean(dim=0)))
        return softened(self.waves, _power(self.waves - self.waves.mean(dim=0)).mean(dim=0))


def read_each(images: Tensor) -> Tensor:
    """(B, COUNT) coefficients of (B, C, H, W) pictures where they lie, each whitened by itself."""
    waves = _waves(images)[:, :1]
    coefficients = softened(waves, _of_rings(_power(waves))[:, None]).squeeze(1)
    return torch.view_as_real(coefficients).flatten(1)


def softened(waves: Tensor, power: Tensor) -> Tensor:
    """Waves in units of the root of ``power``, long ones shortened to about one."""
    strength = waves / power.clamp(min=1e-12).sqrt()
    return strength / (strength.abs() + SOFT)


def _power(waves: Tensor) -> Tensor:
    """(n, 2, K) waves to the (n, K) mean squares of both sides."""
    return waves.abs().square().mean(dim=1)


def _of_rings(power: Tensor) -> Tensor:
    """(..., K) means over waves of about one length."""
    rings = radii().round().long()
    sums = torch.zeros(*power.shape[:-1], int(rings.max()) + 1).index_add(-1, rings, power)
    return (sums / torch.bincount(rings).clamp(min=1))[..., rings]


def read(images: Iterable[Tensor]) -> Reading:
    """Read batches of (B, C, H, W) pictures in [0, 1], grey or RGB; batches may differ in size.

    Raises `ValueError` for values that are not finite: what is no number fits every key.
    """
    waves: list[Tensor] = []
    sizes: list[tuple[int, int]] = []
    for batch in images:
        height, width = batch.shape[-2:]
        if not all_finite(batch):
            raise ValueError("pictures have values that are not finite; values in [0, 1] are read")
        for part in torch.split(batch, max(1, CHUNK // (height * width))):
            waves += [_waves(part.float())] if len(part) else []  # no transform takes none
            sizes += [(height, width)] * len(part)
    if not waves:
        return Reading(torch.zeros(0, 2, len(BAND), dtype=torch.complex64), [])
    return Reading(torch.cat(waves), sizes)


def _waves(images: Tensor) -> Tensor:
    left = residual(luma(images)).squeeze(1)
    both = torch.stack([left, left.flip(-1)], dim=1)  # (B, 2, H, W)
    spectrum = torch.fft.fft2(_folded(both))
    found: Tensor = spectrum[..., BAND[:, 0], BAND[:, 1]]
    return found


def _folded(values: Tensor) -> Tensor:
    """(B, 2, H, W) to (B, 2, TILE, TILE): the sum of all tiles."""
    height, width = values.shape[-2:]
    padded = functional.pad(values, (0, -width % TILE, 0, -height % TILE))
    down, across = padded.shape[-2] // TILE, padded.shape[-1] // TILE
    return padded.view(len(values), 2, down, TILE, across, TILE).sum(dim=(2, 4))
