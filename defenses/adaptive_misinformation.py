"""Adaptive misinformation (Kariyappa and Qureshi, 2020): the less a row is known, the less its answer is true."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn

from mantlet import architectures, noise, simplex
from mantlet.errors import WeightsError
from mantlet.plugin import Defense, Setup
from mantlet.types import Prediction, Query, Signal, suspicion_of


class AdaptiveMisinformation(Defense):
    """Blends clean rows y with misinformation m: ``y' = (1 - a) y + a m``, more of it for foreign rows.

    ``a = sigmoid(sharpness * (threshold - max y))``: Kariyappa and Qureshi, "Defending against model
    stealing attacks with adaptive misinformation", CVPR 2020. With ``driver: suspicion`` it is
    ``sigmoid(sharpness * (suspicion - threshold))``, of the largest suspicion of the row's client. The
    misinformation is the answer of a second network, in the paper one that was trained to be wrong by the
    reverse cross-entropy ``-log(1 - m_label)``; without ``weights`` it is one wrong class, drawn from the gateway's
    secret and the rounded row.

    Deviation: with ``keep_label`` a blend that would change the top class goes back until it does not. The
    published method lets go of the label, and that is most of its protection; an honest row in doubt is then
    answered with a wrong one.

    Cost: one hash a row, or a forward pass of the second network. What undoes it: rows that the model is sure
    of; where the label is kept, training on labels alone; without ``weights``, jittered copies of a row, whose
    wrong classes differ.
    """

    type: Literal["adaptive_misinformation"] = "adaptive_misinformation"
    driver: Literal["confidence", "suspicion"] = "confidence"
    """What makes a row foreign: ``confidence``, the model's own top probability, or ``suspicion``."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.9
    """The top probability under which, or the suspicion over which, an answer is mostly misinformation."""
    sharpness: Annotated[float, Field(gt=0, le=10_000)] = 1000.0
    """How abruptly; 1000 in the paper."""
    keep_label: bool = True
    """Whether the top class stays."""
    weights: Path | None = None
    """A safetensors file of the misinforming network, whose ``recipe`` names its architecture."""
    keeps_top1 = False

    _secret: bytes = PrivateAttr()
    _network: nn.Module | None = PrivateAttr(None)

    def load(self, setup: Setup) -> None:
        self._secret = setup.secret
        if self.weights is not None:
            self._network = architectures.read(self.weights).to(setup.device)
            if setup.shape:
                self._probe(setup)

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        clean = prediction.values
        beyond = self.threshold - clean.amax(dim=1)
        if self.driver == "suspicion":
            # in tenths: a query that is repeated meanwhile tells nothing new
            tenths = (10 * suspicion_of(signals, len(clean)).to(clean)).round()
            beyond = tenths / 10 - self.threshold
        share = torch.sigmoid(self.sharpness * beyond)[:, None]  # (B, 1)
        blended = (1.0 - share) * clean + share * self._misinformation(clean, query.inputs)
        if self.keep_label:
            blended = simplex.blend_to_keep_top1(clean, blended)
        return replace(prediction, values=blended)

    def _probe(self, setup: Setup) -> None:
        """Raise `WeightsError` where the network does not fit the rows and classes of the victim."""
        row = torch.full((1, setup.classes), 1.0 / setup.classes, device=setup.device)
        inputs = torch.zeros(1, *setup.shape, device=setup.device)
        try:
            shape = self._misinformation(row, inputs).shape
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise WeightsError(
                f"weights '{self.weights}': the network does not take rows of shape {setup.shape}: {reason};"
                " name one that was trained on the victim's inputs"
            ) from error
        if shape != row.shape:
            raise WeightsError(
                f"weights '{self.weights}': the network knows {shape[1]} classes, the victim"
                f" {setup.classes}; name one that was trained on the victim's classes"
            )

    def _misinformation(self, clean: Tensor, inputs: Tensor) -> Tensor:
        """(B, C) probabilities that are wrong, whoever is asked."""
        if self._network is not None:
            with torch.inference_mode():
                return torch.softmax(self._network(inputs), dim=1).to(clean.dtype)
        draws = noise.uniform(noise.row_seeds(self._secret, self.name, inputs), 1)[:, 0]
        top, classes = clean.argmax(dim=1), clean.shape[1]
        steps = 1 + torch.from_numpy((draws * (classes - 1)).astype("int64")).to(top.device)
        return simplex.one_hot((top + steps) % classes, classes).to(clean)
