"""The mark as an output defense: every picture that leaves carries it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PrivateAttr

from defenses.watermark.mark import Mark
from mantlet.plugin import Defense, Setup
from mantlet.types import Kind, Prediction, Query, Signal


class Watermark(Defense):
    """Adds a faint keyed pattern: one part is the model's and in every picture, one names the client.

    picture' = clip(picture + a v (sqrt(1 - s) model + sqrt(s) client)): patterns of 32x32 pixels, tiled, of waves
    of 3 to 16 pixels with keyed signs; v is visibility, and a brings the picture to ``psnr``. The model's part
    is found again in pictures (`mantlet watermark detect`) and in what a copy that learned from them draws; the
    client's 32 bits tell which account leaked a picture (`mantlet watermark trace`). Spread spectrum: Cox,
    Kilian, Leighton and Shamoon, 1997. Cost: 0.01 ms for 28x28, a few ms for 256x256. What undoes it: an estimate
    of the pattern from pictures, subtracted, 16 of them where the ground is black, and black put to black there; small turns; drawing the pictures anew with
    another generator; for the client's part alone, pictures of many accounts, averaged.
    """

    type: Literal["watermark"] = "watermark"
    psnr: Annotated[float, Field(ge=20, le=50)] | None = None
    """What a picture keeps at least, in dB; 38 up to 64 pixels a side and 40 above where it is not given."""
    client_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the energy that names the client; 0.3 up to 64 pixels a side and 0.75 above where it is not given."""
    masking: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How much of the mark moves from flat grey to busy, dark and bright places, where it is hard to see."""
    black: Annotated[float, Field(ge=0.1, le=1)] = 1.0
    """How much of what `masking` moves to a black ground stays there; less is harder to blacken, and easier to compress away."""
    sparse: Annotated[float, Field(ge=0, le=2)] = 0.0
    """How far the pattern must rise, in its root mean squares, to be drawn on a black ground: bright dots in place of a haze."""
    keeps_top1 = True
    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.IMAGES})

    _mark: Mark = PrivateAttr()

    def load(self, setup: Setup) -> None:
        self._mark = Mark(
            setup.secret,
            setup.model,
            psnr=self.psnr,
            client_share=self.client_share,
            masking=self.masking,
            black=self.black,
            sparse=self.sparse,
        )

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        return replace(prediction, values=self._mark.embed(prediction.values, query.clients))
