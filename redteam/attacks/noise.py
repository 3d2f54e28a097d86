"""Uniform noise: the least that a thief without any data can send."""

import torch

from redteam.attacks.transfer import Progress, Transfer, silent
from redteam.oracle import Oracle


def noise(
    oracle: Oracle,
    shape: tuple[int, ...],
    *,
    budget: int,
    generator: torch.Generator,
    progress: Progress = silent,
) -> Transfer:
    """``budget`` rows of ``shape``, every number uniform in [0, 1)."""
    inputs = torch.rand(budget, *shape, generator=generator)
    answers = oracle.query(inputs)
    progress(budget, budget)
    return Transfer(inputs, answers)
