"""A faint pattern in explanations by which they are known again."""

import math
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn

from mantlet import noise, regions
from mantlet.plugin import Defense, Setup
from mantlet.types import Kind, Prediction, Query, Signal


class ExplanationMark(Defense):
    """Makes each value of a map a little larger or smaller, by signs that the key draws for its place.

    ``m * (1 + amplitude * w) / (1 + amplitude)`` with w of -1 and 1, one for each place, the same for all maps
    and channels: the largest value stays the largest possible one. ``p_value`` tells whether maps carry it.
    Put it behind the defenses that pool and quantise: they would erase it.

    Cost: a product. What undoes it: pooling, quantising or blurring what was shown. It says whose maps these
    are, and hides no gradient.
    """

    type: Literal["explanation_mark"] = "explanation_mark"
    amplitude: Annotated[float, Field(gt=0, le=0.5)] = 0.02
    """By what share a value changes."""
    keeps_top1 = True
    kinds = frozenset({Kind.ATTRIBUTIONS})

    _secret: bytes = PrivateAttr()

    def load(self, setup: Setup) -> None:
        self._secret = setup.secret

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        planes = regions.planes(prediction.values)
        factors = (1 + self.amplitude * self._signs(planes)) / (1 + self.amplitude)
        return replace(prediction, values=(planes * factors).view_as(prediction.values))

    def p_value(self, maps: Tensor) -> float:
        """How likely (n, *shape) maps would seem as marked as these by chance: a bound, for all n.

        What each place sticks out from its neighbours, as a share of the map's largest value, is added up over
        maps; with random signs w, ``P(w.X >= t |X|) <= exp(-t**2 / 2)`` (Hoeffding, 1963), whatever X is.
        """
        planes = regions.planes(maps.abs())
        shares = regions.scaled(planes).mean(dim=1)  # (n, H, W)
        around = nn.functional.avg_pool2d(shares, 3, stride=1, padding=1, count_include_pad=False)
        sums = (shares - around).sum(dim=0).double()  # (H, W)
        if not bool(sums.any()):
            return 1.0
        score = float((self._signs(planes) * sums).sum() / sums.norm())
        return math.exp(-0.5 * max(score, 0.0) ** 2)

    def _signs(self, planes: Tensor) -> Tensor:
        """(H, W) of -1 and 1."""
        height, width = planes.shape[2:]
        key = blake2b(self._secret, digest_size=32, person=b"mantlet").digest()
        seed = blake2b(f"{self.name} {height} {width}".encode(), digest_size=8, key=key).digest()
        drawn = noise.uniform(np.frombuffer(seed, np.uint64), height * width)
        return torch.from_numpy(np.where(drawn < 0.5, -1.0, 1.0)).view(height, width).to(planes)
