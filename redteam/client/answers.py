"""Answers to the rows of one query, where they come from several requests or accounts, and some never come."""

import torch
from torch import Tensor

from mantlet.errors import MantletError
from redteam.client.oracle import Came, Cut, Oracle, Refused


class Answers:
    """What (B, *shape) ``inputs`` were answered so far; ``open`` are the (k,) places of rows without an answer."""

    def __init__(self, inputs: Tensor) -> None:
        self._inputs = inputs
        self._parts: list[Came] = []
        self.open = torch.arange(len(inputs))

    @property
    def came(self) -> Came | None:
        """All that there is, in the order of the rows."""
        return Came.of(self._parts)

    def among(self, places: Tensor) -> Came | None:
        """What there is of the rows at these places."""
        came = self.came
        wanted = None if came is None else torch.isin(came.places, places)
        return None if came is None else Came.of([Came(came.places[wanted], came.answers[wanted])])

    @property
    def whole(self) -> Tensor:
        """(B, ...) answers, once no row is open."""
        assert self.came is not None
        return self.came.answers

    def keep(self, came: Came) -> None:
        """Take what came, from wherever it did."""
        self._parts.append(came)
        self.open = self.open[~torch.isin(self.open, came.places)]

    def ask(self, oracle: Oracle, places: Tensor) -> None:
        """Put the rows at (k,) places to an oracle, and keep what comes.

        Raises as the oracle does, with all that came before in what is raised: `Refused`, or `Cut` where
        anything came.
        """
        try:
            self.keep(Came(places, oracle.query(self._inputs[places])))
        except (Refused, Cut) as end:
            if end.came is not None:
                self.keep(Came(places[end.came.places], end.came.answers))
            raise self._ended(end.why if isinstance(end, Cut) else end) from end
        except (MantletError, KeyboardInterrupt) as error:
            raise self._ended(error) from error

    def _ended(self, why: BaseException) -> BaseException:
        if isinstance(why, Refused):
            return Refused(str(why), self.came)
        return why if self.came is None else Cut(why, self.came)
