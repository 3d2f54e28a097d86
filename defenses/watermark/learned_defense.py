"""The learned mark as an output defense, the second option beside `watermark`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PrivateAttr

from defenses.watermark import learned
from defenses.watermark.carriers import MarkKey
from mantlet import weights
from mantlet.learned_marks import LearnedMark
from mantlet.plugin import Defense, Setup
from mantlet.types import Kind, Prediction, Query, Signal


class LearnedWatermark(Defense):
    """Adds a pattern that a network paints for each picture: 64 signs of the model's, 32 of the client's.

    Writer and reader were trained together, through noise, blur, JPEG, crops and a simulated copy that draws
    marked pictures anew (after Zhu et al., "HiDDeN", ECCV 2018, where nothing copies). `watermark` stays the
    default: this one looks at 28x28 pixels whatever the size of a picture, and learned from digits. Cost: a
    pass of a small network, 0.15 ms for 28x28 in a batch of 32. What undoes it: what undoes `watermark`; and
    whoever has the networks reads all signs from one picture without the key, and can write them elsewhere or
    over them, so train your own and keep the file secret.
    """

    type: Literal["learned_watermark"] = "learned_watermark"
    psnr: Annotated[float, Field(ge=20, le=50)] = 38.0
    """What a picture keeps at least, in dB."""
    weights: Path | None = None
    """A safetensors file of `mantlet train` with a recipe of the kind ``watermark``; without it the one that ships."""
    keeps_top1 = True
    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.IMAGES})

    _networks: LearnedMark = PrivateAttr()
    _key: MarkKey = PrivateAttr()

    def load(self, setup: Setup) -> None:
        self._networks = self.networks().to(setup.device)
        self._key = MarkKey(setup.secret, setup.model)

    def networks(self) -> LearnedMark:
        """The writer and the reader, opened anew."""
        path = self.weights or learned.SHIPPED
        weights.refuse_unsafe(path)
        return LearnedMark.load(path)

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        messages = torch.stack([learned.message(self._key, client) for client in query.clients])
        with torch.no_grad():
            marked = self._networks.embed(
                prediction.values, messages.to(prediction.values), self.psnr
            )
        return replace(prediction, values=marked)
