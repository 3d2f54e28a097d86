"""Knockoff Nets (Orekondy, Schiele and Fritz, 2019): ask about pictures of a pool of one's own."""

from typing import Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from redteam.attacks.attack import Attack, Ledger
from redteam.attacks.bandit import Bandit, Rescaled
from redteam.learning import Means


class Knockoff(Attack):
    """Rows of the pool in random order, none twice, until the budget or the pool is spent.

    With a pool of the victim's own kind it is the thief with in-distribution data. ``adaptive`` is the
    paper's second strategy: a gradient bandit over ``clusters`` of the pool (k-means of pixels stands in
    for its labels) draws ``batch`` rows at a time, one cluster a row. A row's reward is the mean of
    certainty p1 - p2, diversity sum_k max(0, p_k - mean p_k so far), and the cross-entropy of a clone
    that learns on the way, each rescaled to [0, 1]. Random is the default: public code has no adaptive
    strategy, and others found it no better.
    """

    type: Literal["knockoff"] = "knockoff"
    adaptive: bool = False
    clusters: PositiveInt = 20
    batch: PositiveInt = 8

    def steal(self, ledger: Ledger, means: Means, generator: torch.Generator) -> None:
        order = torch.randperm(len(means.pool), generator=generator)
        if self.adaptive:
            self._follow_rewards(ledger, means, order, generator)
        else:
            ledger.ask(means.pool[order[: ledger.left]])

    def _follow_rewards(
        self, ledger: Ledger, means: Means, order: Tensor, generator: torch.Generator
    ) -> None:
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        arms = _clusters(means.pool[order], self.clusters)
        waiting = [order.numpy()[arms == arm].tolist() for arm in range(self.clusters)]
        bandit, rewards = Bandit(self.clusters), _Rewards(self, means, generator)
        while ledger.left and any(waiting):
            drawn: list[tuple[int, int]] = []  # arm and row
            while len(drawn) < self.batch and any(waiting):
                chances = bandit.policy(np.array([bool(rows) for rows in waiting]))
                arm = int(rng.choice(self.clusters, p=chances))
                drawn.append((arm, waiting[arm].pop()))
            inputs = means.pool[[row for _, row in drawn]]
            for (arm, _), reward in zip(drawn, rewards(inputs, ledger.ask(inputs)), strict=True):
                bandit.reward(arm, float(reward))


class _Rewards:
    """What rows were worth, judged by their answers and by a clone that learns them on the way."""

    def __init__(self, attack: Knockoff, means: Means, generator: torch.Generator) -> None:
        self._clone = means.network(generator)
        self._optimizer = torch.optim.SGD(self._clone.parameters(), attack.training.lr / 5)
        self._rescaled = Rescaled(3)
        self._sum, self._rows = torch.zeros(means.classes), 0

    def __call__(self, inputs: Tensor, answers: Tensor) -> np.ndarray:
        """(B,) rewards in [0, 1]."""
        top = answers.topk(2, dim=1).values
        self._sum, self._rows = self._sum + answers.sum(dim=0), self._rows + len(answers)
        diverse = (answers - self._sum / self._rows).clamp_min(0).sum(dim=1)
        loss = nn.functional.cross_entropy(self._clone(inputs), answers, reduction="none")
        self._optimizer.zero_grad()
        loss.mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._optimizer.step()
        parts = torch.stack([top[:, 0] - top[:, 1], diverse, loss.detach()], dim=1)  # (B, 3)
        rewards: np.ndarray = self._rescaled(parts.numpy()).mean(axis=1)
        return rewards


def _clusters(rows: Tensor, count: int) -> np.ndarray:
    """(n,) the cluster of every row by Lloyd's algorithm, which starts at the first; some may be empty."""
    points = rows.flatten(1)
    centers = points[:count]
    for _ in range(10):
        cluster = torch.cdist(points, centers).argmin(dim=1)
        sums = torch.zeros_like(centers).index_add_(0, cluster, points)
        centers = sums / cluster.bincount(minlength=len(centers)).clamp_min(1)[:, None]
    found: np.ndarray = cluster.numpy()
    return found
