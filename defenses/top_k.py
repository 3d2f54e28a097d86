"""Only the K most likely classes keep their probability."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from pydantic import PositiveInt

from mantlet import simplex
from mantlet.plugin import Defense
from mantlet.types import Prediction, Query, Signal


class TopK(Defense):
    """Sets all but the ``k`` largest probabilities to zero and scales those to sum to one.

    Cost: one partial sort. What undoes it: partial Bayes over the missing classes, or label-only
    training; the top label always stays.
    """

    type: Literal["top_k"] = "top_k"
    k: PositiveInt = 3
    """How many probabilities are kept."""
    keeps_top1 = True

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        values = prediction.values
        kept = torch.zeros_like(values, dtype=torch.bool)
        kept.scatter_(1, values.topk(min(self.k, values.shape[1]), dim=1).indices, value=True)
        # of equal probabilities topk may drop the first one, which arg-max would name
        kept.scatter_(1, values.argmax(dim=1, keepdim=True), value=True)
        return replace(prediction, values=simplex.normalize(values * kept))
