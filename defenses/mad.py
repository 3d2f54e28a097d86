"""Maximizing angular deviation (Orekondy, Schiele and Fritz, 2020): answers that turn a thief's gradient."""

from functools import cache
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from mantlet.surrogates import SurrogateDefense

EXHAUSTIVE = 10
"""Up to that many classes every vertex is tried."""


class Mad(SurrogateDefense):
    """Answers the row whose training gradient points furthest away from that of the clean row.

    ``max 1 - cos(G'y', G'y)`` over the simplex with ``||y' - y||_1 <= epsilon`` and the top class of y, where
    row k of G is the gradient of a surrogate's ``log p_k(x; w)``: MAD-argmax of Orekondy, Schiele and Fritz,
    "Prediction poisoning: towards defenses against DNN model stealing attacks", ICLR 2020, equations 4 to 7.
    As in the authors' code w is the surrogate's last layer alone. There row k of G is ``(e_k - p) h'``, so the
    angle is exactly that between ``y' - p`` and ``y - p``, and no derivative is taken; the Jacobian of all
    parameters of a LeNet takes 9 to 15 ms a row.

    As in the paper, the clean row moves until the budget is spent towards a vertex: equal shares for the top class
    and some others. Deviations: the vertex is judged by the angle at the end of the way, where that code takes
    the one that is itself furthest off; beyond 10 classes, up to which all vertices are tried, classes join
    by ``y - p``, the least first, where that code adds them greedily.

    Cost: 0.1 ms a row in a batch of 32 with 10 classes, 0.4 with a LeNet as surrogate. What undoes it: training
    on labels alone, for the label stays; a learned inverse (D-DAE); who knows the surrogate solves for y.
    """

    type: Literal["mad"] = "mad"

    def moved(self, clean: Tensor, network: nn.Module, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            believed = network(inputs).softmax(dim=1)
        return turned(clean, believed, self.epsilon)


def turned(clean: Tensor, believed: Tensor, epsilon: float) -> Tensor:
    """(B, C) furthest, by its angle at the surrogate's answer ``believed``, from ``clean``; all (B, C) float64."""
    way = _vertices(clean, believed) - clean[:, None]  # (B, M, C)
    length = way.abs().sum(dim=2, keepdim=True)
    reached = clean[:, None] + way * (epsilon / length.clamp_min(1e-12)).clamp_max(1.0)
    right = (clean - believed)[:, None]
    angle = torch.cosine_similarity(reached - believed[:, None], right, dim=2, eps=1e-12)
    # the first of equals, so that rounding in a batch of another size chooses no other
    chosen = (angle <= angle.amin(dim=1, keepdim=True) + 1e-9).int().argmax(dim=1)
    return reached[torch.arange(len(clean)), chosen]


def _vertices(clean: Tensor, believed: Tensor) -> Tensor:
    """(B, M, C) equal shares for the top class and others."""
    top = clean.argmax(dim=1, keepdim=True)
    first = (clean - believed).round(decimals=10).scatter(1, top, -torch.inf)
    order = first.argsort(dim=1, stable=True)[:, None]  # the top class, then those to prefer
    shares = _shares(clean.shape[1]).to(clean.device)  # (M, C)
    many = shares.expand(len(clean), -1, -1)
    return torch.zeros_like(many).scatter(2, order.expand_as(many), many)


@cache
def _shares(classes: int) -> Tensor:
    """(M, C) rows of equal shares, all with the first class."""
    if classes <= EXHAUSTIVE:
        members = torch.tensor([(1, *rest) for rest in product((0, 1), repeat=classes - 1)])
    else:
        members = torch.ones(classes, classes).tril()
    return members.double() / members.sum(dim=1, keepdim=True)
