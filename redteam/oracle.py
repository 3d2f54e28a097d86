"""All that an attack may see of a victim: rows in, answers out, and every one of them counted."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from mantlet.types import Query
from serving.folding import Memory
from serving.pipeline import Pipeline

BATCH = 256


class Refused(Exception):
    """The gateway denies the client, or the budget is spent; an attack ends there."""


class Oracle(Protocol):
    """Answers rows: ``query`` maps (B, *shape) to what is released, (B, C) probabilities or (B,) labels.

    ``rows`` counts every row that was sent, ``floats`` every number that came back. Raises `Refused`
    once the client is denied.
    """

    @property
    def rows(self) -> int: ...
    @property
    def floats(self) -> int: ...
    def query(self, inputs: Tensor) -> Tensor: ...


class InProcess:
    """One client of a pipeline, whose memory it carries from batch to batch as a store would.

    ``clock`` gives the seconds of each batch. With ``recording``, ``sent`` keeps every batch of rows.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        client: str = "thief",
        clock: Callable[[], float] = lambda: 0.0,
        recording: bool = False,
    ) -> None:
        self._pipeline = pipeline
        self._client = client
        self._clock = clock
        self._recording = recording
        self._memories: Mapping[str, Memory] = {}
        self._rows = self._floats = 0
        self.sent: list[Tensor] = []

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def floats(self) -> int:
        return self._floats

    def query(self, inputs: Tensor) -> Tensor:
        return torch.cat([self._ask(part) for part in torch.split(inputs, BATCH)])

    def _ask(self, inputs: Tensor) -> Tensor:
        query = Query([self._client] * len(inputs), inputs, self._clock())
        outcome = self._pipeline.run(query, self._memories)
        self._memories = outcome.decision.memories
        self._rows += len(inputs)
        if self._recording:
            self.sent.append(inputs.clone())
        released = outcome.rows(0, len(inputs))
        if released is None:
            raise Refused(f"client '{self._client}' is denied after {self._rows} rows")
        self._floats += released.values.numel()
        return released.values


class Wrapper:
    """What stands around another oracle: its counts are that one's."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle

    @property
    def rows(self) -> int:
        return self._oracle.rows

    @property
    def floats(self) -> int:
        return self._oracle.floats


class Capped(Wrapper):
    """An oracle that refuses what goes beyond ``budget`` rows, and sends nothing of it.

    It stands under the wrappers that send more rows than they are asked (`redteam.averaging`,
    `redteam.mixing`), for whom an attack cannot reckon.
    """

    def __init__(self, oracle: Oracle, budget: int) -> None:
        super().__init__(oracle)
        self._budget = budget

    def query(self, inputs: Tensor) -> Tensor:
        if self.rows + len(inputs) > self._budget:
            raise Refused("budget spent")
        return self._oracle.query(inputs)
