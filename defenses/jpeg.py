"""JPEG compression of pictures (Hu and Pang, 2021)."""

from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from mantlet.plugin import Defense
from mantlet.types import Kind, Prediction, Query, Signal


class Jpeg(Defense):
    """Compresses every picture as JPEG of some ``quality`` and answers what is left of it, in 8 bits.

    Source: the compression of Hu and Pang, ACSAC 2021. Clients who take JPEG anyway lose nothing by it. Two of
    them with a ``name`` each make tiers: full quality at the first level of the policy, less for the suspected.
    Cost: 0.1 ms for a picture of 28x28, 5 ms for one of 256x256 in colour. What undoes it: it changes little that a copy
    learns of; deblocking filters.
    """

    type: Literal["jpeg"] = "jpeg"
    quality: Annotated[int, Field(ge=1, le=95)] = 85
    """As libjpeg means it; 85 in the paper."""
    keeps_top1 = True
    kinds = frozenset({Kind.IMAGES})

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        clean = prediction.values
        levels = (clean * 255).round().to(torch.uint8).numpy(force=True)
        packed = np.ascontiguousarray(np.stack([self._again(picture) for picture in levels]))
        return replace(prediction, values=torch.from_numpy(packed).to(clean) / 255)

    def _again(self, picture: np.ndarray) -> np.ndarray:
        """(C, H, W) uint8 as it comes back; channels are one (grey), three (colour), or each by itself."""
        if len(picture) not in (1, 3):
            return np.concatenate([self._again(channel[None]) for channel in picture])
        image = Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0))
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=self.quality)
        with Image.open(buffer) as opened:
            back = np.asarray(opened)
        return back[None] if len(picture) == 1 else np.ascontiguousarray(back.transpose(2, 0, 1))
