"""A fixed number of latents for whoever pays: who asks for more pictures gets the same ones again."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from defenses.anchors import Anchored, chosen


class LatentBudget(Anchored):
    """Answers every request with one of the ``latents`` of its identity, drawn by key.

    A service that samples for its clients has no need of fresh latents without end: a thief's set stops growing at
    ``latents`` pictures, and what he has of it grows as that of a collector of coupons, n requests bringing
    ``latents * (1 - exp(-n / latents))`` of them. Each picture is one that the model draws for anybody, so
    none is worse. The budget is the identity's for good, without being counted anywhere.

    A client that sends latents of its own no longer gets *their* pictures. Cost: two hashes and one latent
    drawn a row. What undoes it: many identities, unless the latents are ``shared`` by everybody; a clone that
    needs fewer pictures than the budget.
    """

    type: Literal["latent_budget"] = "latent_budget"
    latents: Annotated[int, Field(ge=1, le=10**12)] = 2000
    """Independent latents of an identity."""

    def place(self, owners: Sequence[str], dice: np.ndarray, size: int) -> np.ndarray:
        return self.drawn(owners, chosen(dice[:, 0], self.latents), size)
