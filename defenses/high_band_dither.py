"""A keyed filter of a picture's own details: every copy that fits the answers learns it, and is known by it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from hashlib import blake2b
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PrivateAttr
from scipy.special import ndtr
from torch import Tensor, nn

from mantlet import likeness
from mantlet.plugin import Defense, Setup
from mantlet.types import Kind, Prediction, Query, Signal

REACH = 4
"""Taps of the filter to each side of its middle, on the grid of every second pixel."""
INNER, OUTER = 2.5, 18.5
"""Squared distances between which taps lie: nearer ones are what networks differ in anyway."""
LARGEST = 0.05
"""The most that a tap weighs, so that flat pictures get no noise."""
ROUNDING = 1 / 4 / 255**2
"""The most that rounding to 8 bits adds to a mean square."""
BENTKUS = 1 / (4 * float(ndtr(-(2**0.5))))
"""About 3.18: a sum of random signs has at most that many times the tail of a normal number."""
STEADY = 0.1
"""Ridge of the fit of taps, as a share of the mean energy of a detail."""
PART = 16
"""Pictures of which taps are fitted at a time."""
LOUD = 2.0
"""Differences count up to that many times their median size: edges, where networks differ, would drown the rest."""


class HighBandDither(Defense):
    """Adds to each pixel the details around it with secret signs, alike at every place of every picture.

    picture' = picture + a up(K * d): d are the details of the picture at half its size (itself less its mean over
    5x5), K has 52 taps of +-1 drawn from the gateway's secret, up is bilinear, and a spends the ``psnr`` of
    each picture, less where structural similarity would fall under ``similarity``. It is part of the mean that a copy
    fits, and needs no place: a convolutional copy cannot learn a pattern that hangs on where a pixel is
    (`watermark`), but a filter of content it learns as any other. `found` tests a suspect's pictures
    for the signs. Content-locked: the same picture gets the same change. Cost: 20 ns a pixel, up to 0.6 us with
    ``similarity``. What undoes it: true pairs, of which the signs are measured (8,000 were enough, and no
    copy was proven then); training on them, or fine-tuning, until the filter is forgotten. Averaging undoes nothing.
    """

    type: Literal["high_band_dither"] = "high_band_dither"
    psnr: Annotated[float, Field(ge=25, le=50)] = 38.0
    """What a picture keeps at least, in dB."""
    similarity: Annotated[float, Field(ge=0, lt=1)] = 0.98
    """Structural similarity to the clean picture that is kept, before rounding to 8 bits; 0 bounds nothing."""
    keeps_top1 = True
    kinds = frozenset({Kind.IMAGES})

    _signs: Tensor = PrivateAttr()

    def load(self, setup: Setup) -> None:
        self._signs = signs(setup.secret)

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        clean = prediction.values
        change = self.change(clean, self._signs)
        return replace(prediction, values=(clean + change).clamp(0, 1))

    def change(self, clean: Tensor, signs: Tensor) -> Tensor:
        """(B, C, H, W) what is added to clean pictures, for (52,) signs."""
        grey = clean.mean(dim=1, keepdim=True)
        kernel = torch.zeros(taps().shape).masked_scatter(taps(), signs).to(clean)
        padded = nn.functional.pad(details(grey), (REACH,) * 4, mode="replicate")
        small = nn.functional.conv2d(padded, kernel[None, None])
        wave = nn.functional.interpolate(small, scale_factor=2, mode="bilinear")
        wave = wave[:, :, : clean.shape[2], : clean.shape[3]]  # odd sides were filled up
        power = 10 ** (-self.psnr / 10) - ROUNDING
        energy = wave.square().mean(dim=(1, 2, 3), keepdim=True)
        change = wave * (power / energy.clamp_min(1e-12)).sqrt().clamp_max(LARGEST)
        if self.similarity:
            change = change * likeness.strength_within(clean, change, self.similarity)
        return change


@cache
def taps() -> Tensor:
    """(9, 9) bool: which taps the filter has, 52 of them on a ring."""
    line = torch.arange(-REACH, REACH + 1)
    far = line[:, None] ** 2 + line[None, :] ** 2
    return (far > INNER) & (far < OUTER)


def signs(secret: bytes) -> Tensor:
    """(52,) signs of +-1 that the secret decides."""
    seed = blake2b(secret, digest_size=32, person=b"high band").digest()
    drawn = np.random.default_rng(list(seed)).integers(0, 2, int(taps().sum()))
    return torch.from_numpy(2.0 * drawn - 1).float()


def halved(grey: Tensor) -> Tensor:
    """(B, 1, ceil(H / 2), ceil(W / 2)) means of 2x2 pixels; odd sides are filled up."""
    down, across = grey.shape[2] % 2, grey.shape[3] % 2
    return nn.functional.avg_pool2d(
        nn.functional.pad(grey, (0, across, 0, down), mode="replicate"), 2
    )


def details(grey: Tensor) -> Tensor:
    """Pictures at half their size, less their means over 5x5."""
    small = halved(grey)
    padded = nn.functional.pad(small, (2, 2, 2, 2), mode="replicate")
    return small - nn.functional.avg_pool2d(padded, 5, 1)


def found(pictures: Tensor, clean: Tensor, secret: bytes) -> float:
    """A p-value for (n, C, H, W) ``pictures`` of a suspect, beside the model's ``clean`` ones of the same inputs.

    What is different is `fitted`, and the fit compared with the secret's signs. For a
    suspect that knows nothing of the secret the signs are fair coins, whatever the pictures are, so the chance of a
    sum of t deviations is under exp(-t^2 / 2) (Hoeffding, 1963) and under 3.18 times the normal
    tail (Bentkus and Dzindzalieta, 2015).
    """
    ring = fitted(pictures, clean)
    length = float(ring.norm())
    if length < 1e-12:  # nothing is different
        return 1.0
    fit = float(ring @ signs(secret).double()) / length
    return min(1.0, math.exp(-(fit**2) / 2), BENTKUS * float(ndtr(-fit))) if fit > 0 else 1.0


def fitted(pictures: Tensor, clean: Tensor) -> Tensor:
    """(52,) float64 weights of the taps by which (n, C, H, W) pictures are best told from clean ones of the same inputs."""
    differ, own = (details(x.mean(dim=1, keepdim=True)) for x in (pictures, clean))
    changed = differ - own
    most = LOUD * float(changed.abs().median())
    changed = changed.clamp(-most, most)
    size = int(taps().numel())
    gram, slopes = torch.zeros(size, size).double(), torch.zeros(size).double()
    for part, target in zip(torch.split(own, PART), torch.split(changed, PART), strict=True):
        padded = nn.functional.pad(part, (REACH,) * 4, mode="replicate")
        columns = nn.functional.unfold(padded, 2 * REACH + 1)  # (n, 81, h w)
        seen = columns.transpose(0, 1).flatten(1).double()
        gram += seen @ seen.T
        slopes += seen @ target.flatten().double()
    ridge = STEADY * float(gram.diagonal().mean()) + 1e-12
    weights = torch.linalg.solve(gram + ridge * torch.eye(size).double(), slopes)
    ring: Tensor = weights[taps().flatten()]
    return ring
