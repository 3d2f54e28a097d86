"""A mark that a thief trains into the clone: a keyed few answers name another class (DAWN)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn

from mantlet import noise
from mantlet.plugin import Defense, Setup
from mantlet.types import Prediction, Query, Signal, suspicion_of

WAVES = 2
"""The most waves across a picture whose strength is measured; it has as many each way."""
SHAPE = 16
"""The most numbers that are measured of a row."""
DIRECTIONS = 10
"""Secret directions in which they are hashed."""
STEP = 0.15
"""Width of a cell along each; the numbers of a row have length 1."""
FLAT = 0.01
"""Contrast under which a row counts as flat, and is not stretched further."""
# whoever changes these five gives up the marks of earlier answers

Rate = Annotated[float, Field(ge=0, le=0.5)]


@dataclass(frozen=True, slots=True)
class Marks:
    """What the key says of rows: the ``cells`` (B,) uint64 they fall in, and per cell ``draws`` (B,)
    uniform in (0, 1), marked where below the rate, and ``turns`` (B,), from 1 to classes - 1: how many
    classes after the top one the marked class comes.
    """

    cells: np.ndarray
    draws: np.ndarray
    turns: np.ndarray


class Dawn(Defense):
    """Swaps the top probability of a keyed share of rows with that of another class.

    ``y'[t] = y[top], y'[top] = y[t]`` with ``t = (top + turn) mod C`` where ``draw < rate``: the row's
    sorted probabilities stay, so neither confidence nor entropy shows it. ``rate`` is that of the row's
    step: unsuspected, suspected, alarmed; what is marked at one rate is marked at every higher one.
    ``draw`` and ``turn`` are keyed by the cell of a robust hash: the strengths of the picture's 14 longest
    waves at length 1, along ten secret directions (Datar et al., "Locality-sensitive hashing scheme
    based on p-stable distributions", SCG 2004, section 3.1); of rows that are no pictures, 16 averages.
    So noise, brightness, another encoding and moving the picture mostly change nothing (the strength of
    a wave does not depend on where it starts), and the same row gets the same answer whoever asks. A clone learns
    the marks, and ``mantlet ownership verify`` finds them in it. Source: Szyller, Atli, Marchal and
    Asokan, "DAWN: Dynamic Adversarial Watermarking of Neural Networks", ACM MM 2021, section 4.
    Deviations: the hash (theirs is keyed over the input, or over an embedding that was learned), the steps
    by suspicion, and a swap in place of a permutation of all classes. **The top class of a marked row
    changes**: a suspected honest client loses that share of right answers, so the rate of the
    unsuspected is 0.

    Cost: one transform, ten products and one hash a row; ``rate`` of the answers of whoever is suspected.
    What undoes it: pictures turned or stretched, asked several times and put to the vote; a thief who
    drops rows that a first clone contradicts, and with them rows near the boundary; long fine-tuning on
    true labels; an unsuspected account, asked the same rows, shows where marks are.
    """

    type: Literal["dawn"] = "dawn"
    rate_unsuspected: Rate = 0.0
    """Share of cells that are marked for rows of nobody suspected."""
    rate_suspected: Rate = 0.02
    """Share of cells that are marked for rows of a suspected client."""
    rate_alarmed: Rate = 0.05
    """Share of cells that are marked for rows of an alarmed client."""
    suspected_from: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The suspicion from which a client counts as suspected: the largest of all detectors."""
    keeps_top1 = False

    _key: bytes = PrivateAttr()
    _directions: Tensor = PrivateAttr()
    _offsets: Tensor = PrivateAttr()

    def load(self, setup: Setup) -> None:
        self._key = setup.secret
        seed = torch.zeros(1, 1)
        drawn = noise.normal(self._key, f"{self.name}/directions", seed, DIRECTIONS * SHAPE)
        self._directions = drawn.double().view(DIRECTIONS, SHAPE)
        seeds = noise.row_seeds(self._key, f"{self.name}/offsets", seed)
        self._offsets = torch.from_numpy(noise.uniform(seeds, DIRECTIONS)[0])  # (K,)

    @property
    def highest_rate(self) -> float:
        """The largest of the three rates."""
        return max(self.rate_unsuspected, self.rate_suspected, self.rate_alarmed)

    def marks(self, inputs: Tensor, classes: int) -> Marks:
        """What the key says of (B, *shape) inputs of a model with so many classes; no suspicion needed."""
        measured = _measured(inputs).cpu()  # (B, D)
        directions = self._directions[:, : measured.shape[1]]
        directions = directions / directions.norm(dim=1, keepdim=True)  # (K, D)
        # not a matrix product: its last bit depends on how many rows there are
        along = (measured[:, None, :] * directions).sum(dim=2)  # (B, K)
        steps = torch.floor(along / STEP + self._offsets)
        cells = noise.row_seeds(self._key, self.name, steps * noise.STEP)
        drawn = noise.uniform(cells, 2)
        return Marks(cells, drawn[:, 0], 1 + (drawn[:, 1] * (classes - 1)).astype(np.int64))

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        clean = prediction.values
        rates = self._rates(signals, len(clean))
        if not rates.any():
            return replace(prediction, values=clean.clone())
        marks = self.marks(query.inputs, clean.shape[1])
        marked = torch.from_numpy(marks.draws < rates).to(clean.device)[:, None]
        top = clean.argmax(dim=1, keepdim=True)
        other = (top + torch.from_numpy(marks.turns).to(clean.device)[:, None]) % clean.shape[1]
        swapped = clean.scatter(1, top, clean.gather(1, other))
        swapped = swapped.scatter(1, other, clean.gather(1, top))
        return replace(prediction, values=torch.where(marked, swapped, clean))

    def _rates(self, signals: Mapping[str, Signal], rows: int) -> np.ndarray:
        """(B,) the rate of each row's step."""
        alarm = torch.zeros(rows, dtype=torch.bool)
        for signal in signals.values():
            alarm = alarm | signal.alarm.cpu()
        suspicion = suspicion_of(signals, rows).float().cpu()
        suspected = suspicion.numpy() >= np.float32(self.suspected_from)
        some = np.where(suspected, self.rate_suspected, self.rate_unsuspected)
        return np.where(alarm.numpy(), self.rate_alarmed, some)


def _measured(inputs: Tensor) -> Tensor:
    """(B, D) float64 with D <= SHAPE: what is hashed of rows, at length 1 unless they are flat."""
    rows = inputs.double()
    if rows.ndim == 4 and min(rows.shape[2:]) > 2 * WAVES:
        waves = torch.fft.rfft2(rows.mean(dim=1), norm="forward")  # (B, H, W // 2 + 1)
        longest = torch.cat([waves[:, : WAVES + 1], waves[:, -WAVES:]], dim=1)[:, :, : WAVES + 1]
        numbers = longest.abs().flatten(1)[:, 1:]  # the first is the mean
    else:
        averages = nn.functional.adaptive_avg_pool1d(rows.flatten(1)[:, None], SHAPE)[:, 0]
        numbers = (averages - averages.mean(dim=1, keepdim=True)) / SHAPE**0.5
    length: Tensor = numbers.norm(dim=1, keepdim=True)
    return numbers / length.clamp_min(FLAT)
