"""Where a mark could lie in pictures that were cropped, moved or mirrored, and how well it fits there."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from defenses.watermark.carriers import BAND, TILE


@dataclass(frozen=True, slots=True)
class Places:
    """One place for each of n readings: mirrored or not, and how far its corner is down and across the tile."""

    mirrored: Tensor
    down: Tensor
    across: Tensor

    @classmethod
    def untouched(cls, count: int) -> "Places":
        """As the pictures are."""
        zeros = torch.zeros(count, dtype=torch.long)
        return cls(zeros, zeros, zeros)

    def moved(self, waves: Tensor) -> Tensor:
        """(n, 2, K) waves to the (n, 2K) coefficients that they have at their places."""
        chosen = waves[torch.arange(len(waves)), self.mirrored]
        steps = self.down[:, None] * BAND[:, 0] + self.across[:, None] * BAND[:, 1]  # (n, K)
        turned = chosen * torch.exp(-2j * torch.pi / TILE * (steps % TILE))
        return torch.view_as_real(turned.to(torch.complex64)).flatten(1)


def allowed(sizes: Sequence[tuple[int, int]], whole: tuple[int, int] | None) -> Tensor:
    """(n, TILE, TILE) bool: where the corner of each picture may lie; anywhere if ``whole`` is unknown.

    ``whole`` is the (height, width) of the pictures before they were cropped.
    """
    places = torch.ones(len(sizes), TILE, TILE, dtype=torch.bool)
    if whole is None:
        return places
    for row, size in enumerate(sizes):
        for axis in (0, 1):
            room = max(0, whole[axis] - size[axis])
            far = torch.arange(TILE) > room
            places[row] &= ~(far[:, None] if axis == 0 else far[None, :])
    return places


def best(waves: Tensor, signs: Tensor, places: Tensor) -> Places:
    """Where ``signs``, (2K,) or (n, 2K), fit (n, 2, K) waves best, among ``places`` (n or 1, TILE, TILE).

    A cross-correlation, over a whole tile at once.
    """
    pairs = signs.reshape(*signs.shape[:-1], -1, 2).contiguous()
    chips = torch.view_as_complex(pairs).unsqueeze(-2)
    spectrum = torch.zeros(*waves.shape[:2], TILE, TILE, dtype=torch.complex64)
    spectrum[..., BAND[:, 0], BAND[:, 1]] = chips * waves.conj()  # (n, 2, K)
    fit = torch.fft.ifft2(spectrum).real  # (n, 2, TILE, TILE)
    fit = fit.masked_fill(~places[:, None], -torch.inf).flatten(1)
    at = fit.argmax(dim=1)
    return Places(at // TILE**2, at // TILE % TILE, at % TILE)
