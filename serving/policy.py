"""The policy: from suspicion and alarm of a row's client to the level at which the row is treated."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from mantlet.types import Signal


class Level(BaseModel):
    """What happens to rows from ``suspicion`` on, or, with ``alarm``, once any detector has alarmed.

    ``defenses`` names the defenses that run, in the order of the config. ``deny_s`` refuses the
    client for that many seconds and releases nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """What the level is called."""
    suspicion: Annotated[float, Field(ge=0, le=1)] = 0.0
    """It holds from this suspicion on."""
    alarm: bool = False
    """It holds once a detector has alarmed, whatever the suspicion."""
    defenses: tuple[str, ...] = ()
    """Names of the defenses that run."""
    deny_s: PositiveFloat | None = None
    """Refuse the client for that many seconds."""


def level_of_rows(levels: Sequence[Level], signals: Mapping[str, Signal], rows: int) -> np.ndarray:
    """(B,) index of the last level of the list that holds for each row.

    The suspicion of a row is the largest of all detectors that enforce.
    """
    if len(levels) == 1:
        return np.zeros(rows, dtype=np.int64)
    suspicion = np.zeros(rows, dtype=np.float32)  # as the signals are: 0.7 must equal 0.7
    alarm = np.zeros(rows, dtype=bool)
    for signal in signals.values():
        suspicion = np.maximum(suspicion, signal.suspicion.numpy())
        alarm |= signal.alarm.numpy()
    chosen = np.zeros(rows, dtype=np.int64)
    for index, level in enumerate(levels):
        chosen[alarm if level.alarm else suspicion >= level.suspicion] = index
    return chosen
