"""A whole gateway in process: accounts of one memory, a clock, and the patrol that looks for campaigns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mantlet.types import Query
from redteam.client.oracle import Refused
from serving import campaigns
from serving.folding import Memory
from serving.pipeline import Outcome, Pipeline

EVERY = 600
"""Rows between two looks of the patrol: ten minutes at a row a second."""


@dataclass
class House:
    """Serves ``pipeline`` to its accounts, all of one ``tier``, in requests of ``request`` rows, a row a second.

    With a ``search`` the patrol looks for campaigns every `EVERY` rows, among the accounts and
    ``honest``, the memories of other clients. ``denied`` and ``alarmed`` tell after how many rows of all
    accounts together each one first was.
    """

    pipeline: Pipeline
    search: campaigns.Search | None = None
    honest: Mapping[str, Memory] = field(default_factory=dict)
    request: int = 32
    tier: str = "default"
    rows: int = 0
    denied: dict[str, int] = field(default_factory=dict)
    alarmed: dict[str, int] = field(default_factory=dict)
    memories: dict[str, Memory] = field(default_factory=dict)
    looks: int = 0

    def account(self, name: str) -> "Account":
        """A client of this house."""
        return Account(self, name)

    def ask(self, client: str, inputs: Tensor) -> Outcome:
        """One request."""
        count = len(inputs)
        query = Query([client] * count, inputs, float(self.rows), [self.tier] * count)
        outcome = self.pipeline.run(query, self.memories)
        self.memories.update(outcome.decision.memories)
        before, self.rows = self.rows, self.rows + len(inputs)
        if any(bool(signal.alarm.any()) for signal in outcome.signals.values()):
            self.alarmed.setdefault(client, self.rows)
        if outcome.decision.denied.any():
            self.denied.setdefault(client, self.rows)
        if self.search is not None and self.rows // EVERY > before // EVERY:
            self._patrol(self.search)
        return outcome

    def _patrol(self, search: campaigns.Search) -> None:
        """One look, as `serving.patrol` does it; members are marked and their next rows treated so."""
        self.looks += 1
        crowd = campaigns.gather({**self.honest, **self.memories}.items(), self.pipeline)
        for found in campaigns.find(crowd, self.pipeline, search, looks=self.looks):
            for client in found.new if found.alarm else ():
                if client in self.memories:  # what honest clients suffer is not measured here
                    self.memories[client] = campaigns.marked(
                        self.memories[client], number=found.number, at=self.rows
                    )
                    self.alarmed.setdefault(client, self.rows)


class Account:
    """One client of a `House`; an `redteam.client.oracle.Oracle`."""

    def __init__(self, house: House, name: str) -> None:
        self._house, self._name = house, name
        self._rows = self._floats = 0

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def floats(self) -> int:
        return self._floats

    def query(self, inputs: Tensor) -> Tensor:
        """What is released, (B, C) or (B,); raises `Refused` at the first request that is denied."""
        parts = torch.split(inputs, self._house.request)
        return torch.cat([self._ask(part) for part in parts])

    def _ask(self, inputs: Tensor) -> Tensor:
        outcome = self._house.ask(self._name, inputs)
        self._rows += len(inputs)
        released = outcome.rows(0, len(inputs))
        if released is None:
            raise Refused(f"client '{self._name}' is denied after {self._rows} rows")
        self._floats += released.values.numel()
        return released.values
