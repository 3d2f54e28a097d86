"""What a thief does against noise: ask about a row several times, each time a little changed."""

import torch
from torch import Tensor

from redteam.client.oracle import Came, Oracle, Refused, Wrapper


class Averaging(Wrapper):
    """Asks each row ``times`` times with Gaussian ``jitter`` on its numbers, and answers the mean.

    ``jitter`` is a standard deviation in the unit of inputs in [0, 1]; it gets past answers that repeat
    for a repeated row. Of labels the most frequent one is the answer, the lowest where several are.
    All rows that are sent count.
    """

    def __init__(
        self, oracle: Oracle, *, times: int, jitter: float, generator: torch.Generator
    ) -> None:
        super().__init__(oracle)
        self._times, self._jitter, self._generator = times, jitter, generator

    def query(self, inputs: Tensor) -> Tensor:
        asked = inputs.repeat(self._times, *[1] * (inputs.ndim - 1))
        noise = torch.randn(asked.shape, generator=self._generator)
        try:
            answers = self._oracle.query((asked + self._jitter * noise).clamp(0, 1))
        except Refused as refusal:
            raise Refused(str(refusal), _told(refusal.came, len(inputs))) from refusal
        return _agreed(answers.reshape(self._times, len(inputs), *answers.shape[1:]))


def _agreed(each: Tensor) -> Tensor:
    """One answer of (times, B, ...) to the same rows."""
    return each.mode(dim=0).values if each.ndim == 2 else each.mean(dim=0)


def _told(came: Came | None, rows: int) -> Came | None:
    """The same of rows that were answered less often."""
    if came is None:
        return None
    asked = came.places % rows
    places = torch.tensor(sorted(set(asked.tolist())))
    each = [_agreed(came.answers[asked == place].unsqueeze(1)) for place in places]
    return Came(places, torch.cat(each))
