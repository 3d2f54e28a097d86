"""Knockoff Nets (Orekondy, Schiele and Fritz, 2019): ask about pictures of a pool of one's own."""

import torch
from torch import Tensor

from redteam.attacks.transfer import Progress, Transfer, silent
from redteam.oracle import Oracle


def knockoff(
    oracle: Oracle,
    pool: Tensor,
    *,
    budget: int,
    generator: torch.Generator,
    batch: int = 8,
    progress: Progress = silent,
) -> Transfer:
    """The random strategy: ``budget`` rows of ``pool`` (n, *shape) without replacement.

    With a pool of the victim's own kind it is the thief with in-distribution data. The adaptive
    strategy is left out: its public code does not have it, and users found it no better.
    """
    chosen = torch.randperm(len(pool), generator=generator)[:budget]
    answers = []
    for rows in torch.split(chosen, batch):
        answers.append(oracle.query(pool[rows]))
        progress(sum(map(len, answers)), len(chosen))
    return Transfer(pool[chosen], torch.cat(answers))
