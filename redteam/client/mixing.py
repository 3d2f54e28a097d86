"""What a thief does against detectors: send honest rows among its own."""

import torch
from torch import Tensor

from redteam.client.oracle import Came, Oracle, Refused, Wrapper
from redteam.learning import Transfer


class Mixing(Wrapper):
    """Sends rows of ``stock`` (n, *shape), honest ones that the thief owns, between the rows it is asked.

    ``share`` in [0, 1) is how much of the traffic they are: with 0.8, four for each row of the thief's.
    The stock is gone through in a drawn order and then again. ``cover`` is what they were answered, for a
    thief who learns from it too. All rows that are sent count.
    """

    def __init__(
        self, oracle: Oracle, stock: Tensor, *, share: float, generator: torch.Generator
    ) -> None:
        if not len(stock):
            raise ValueError("the stock of honest rows is empty")
        super().__init__(oracle)
        self._stock, self._generator = stock, generator
        self._each = share / (1 - share)
        self._owed = 0.0
        self._order = torch.zeros(0, dtype=torch.int64)
        self._covers: list[tuple[Tensor, Tensor]] = []

    @property
    def cover(self) -> Transfer | None:
        """The honest rows sent so far, and their answers; nothing where none was sent."""
        if not self._covers:
            return None
        inputs, answers = zip(*self._covers, strict=True)
        return Transfer(torch.cat(inputs), torch.cat(answers))

    def query(self, inputs: Tensor) -> Tensor:
        self._owed += self._each * len(inputs)
        cover = self._drawn(int(self._owed))
        self._owed -= len(cover)
        place = torch.randperm(len(inputs) + len(cover), generator=self._generator)
        try:
            answers = self._oracle.query(torch.cat([inputs, cover])[place])
        except Refused as refusal:
            own = None
            if refusal.came is not None:
                came = Came(place[refusal.came.places], refusal.came.answers)
                own = Came.of([self._own(len(inputs), cover, came)])
            raise Refused(str(refusal), own) from refusal
        return self._own(len(inputs), cover, Came(place, answers)).answers

    def _own(self, rows: int, cover: Tensor, came: Came) -> Came:
        """What ``rows`` rows were answered, in their order; what the cover behind them was is kept."""
        order = came.places.argsort()
        places, answers = came.places[order], came.answers[order]
        own = places < rows
        if not own.all():
            self._covers.append((cover[places[~own] - rows], answers[~own]))
        return Came(places[own], answers[own])

    def _drawn(self, count: int) -> Tensor:
        """(count, *shape) of the stock."""
        while len(self._order) < count:
            more = torch.randperm(len(self._stock), generator=self._generator)
            self._order = torch.cat([self._order, more])
        chosen, self._order = self._order[:count], self._order[count:]
        return self._stock[chosen]
