"""Tells when the honest traffic as a whole has moved away from the calibration."""

from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from serving.folding import Fold, Memory, rows_before

LEAST_ROWS = 25
"""Rows of a client before its recent scores are heard."""
ENDED = 0.6
"""Share of what is tolerated below which a drift is over."""


class Watch(BaseModel):
    """When all clients together are held to drift, rather than each to steal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clients: PositiveInt = 20
    """So many clients must have asked of late; of fewer, nothing is said."""
    within_s: PositiveFloat = 3600.0
    """What of late means, in seconds."""
    hold: bool = True
    """While traffic drifts, the scores that drift accuse nobody, and no campaign is called; else a drift is only told."""
    majority: Annotated[float, Field(ge=0.5, lt=1)] = 0.5
    """Share of these clients whose scores must have risen beyond what is tolerated."""


class Lately:
    """The recent scores of the clients of one model, heard one by one."""

    def __init__(self, fold: Fold, watch: Watch, at: float) -> None:
        self._fold, self._watch, self._since = fold, watch, at - watch.within_s
        self._shares: list[np.ndarray] = []

    def hear(self, memory: Memory) -> None:
        """Take one client into account, if it asked enough and of late."""
        share, at = self._fold.lately(memory)
        if at >= self._since and rows_before(memory) >= LEAST_ROWS:
            self._shares.append(share)

    def typical(self) -> np.ndarray | None:
        """(F,) mean score of the client at the edge of the majority, as a share of what is tolerated.

        None where too few asked. Whoever wants to move it must own a majority of these clients.
        """
        if len(self._shares) < self._watch.clients or not self._fold.tested:
            return None
        shares = np.stack(self._shares)
        edge: np.ndarray = np.quantile(shares, 1 - self._watch.majority, axis=0)
        return edge


def drifting(typical: np.ndarray, held: np.ndarray) -> np.ndarray:
    """(F,) bool: what drifts now, where ``held`` (F,) did before; it ends later than it begins."""
    drifts: np.ndarray = typical > np.where(held, ENDED, 1.0)
    return drifts


def by_detector(fold: Fold, columns: np.ndarray) -> dict[str, np.ndarray]:
    """(G,) of each tested detector from (F,) of all."""
    ends = np.cumsum([d.width for d in fold.tested])
    parts = np.split(columns, ends[:-1])
    return {d.name: part for d, part in zip(fold.tested, parts, strict=True)}
