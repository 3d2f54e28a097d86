"""What a thief does against noise: ask about a row several times, each time a little changed."""

import torch
from torch import Tensor

from redteam.client.oracle import Oracle, Wrapper


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
        answers = self._oracle.query((asked + self._jitter * noise).clamp(0, 1))
        each = answers.reshape(self._times, len(inputs), *answers.shape[1:])  # (times, B, C)
        return each.mean(dim=0) if answers.ndim == 2 else each.mode(dim=0).values
