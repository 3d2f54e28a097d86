"""Only the label: a one-hot vector in place of the probabilities."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from mantlet import simplex
from mantlet.plugin import Defense
from mantlet.types import Prediction, Query, Signal


class LabelOnly(Defense):
    """Answers the vertex of the simplex at the top class; the shape on the wire stays the same.

    Cost: none. What undoes it: label-only training; a thief with in-distribution data loses little
    (papers: Orekondy et al., 2019; Atli et al., 2019).
    """

    type: Literal["label_only"] = "label_only"
    keeps_top1 = True

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        labels = prediction.values.argmax(dim=1)
        values = simplex.one_hot(labels, prediction.values.shape[1])
        return replace(prediction, values=values.to(prediction.values.device))
