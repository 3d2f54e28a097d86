"""Gradient redirection (Mazeika, Li and Forsyth, 2022): answers that pull a thief's network one way."""

from typing import Literal

import torch
from torch import Tensor, nn

from mantlet.surrogates import SurrogateDefense

GRID = 17
"""Values of the top probability that are tried at once."""
ROUNDS = 10
"""Each leaves an eighth of the range: 1e-9 of it in the end."""


class GradientRedirection(SurrogateDefense):
    """Answers the row whose training gradient goes furthest along one fixed direction.

    ``max c . y'`` over the simplex with ``||y' - y||_1 <= epsilon``, where ``c_k = z . grad_w log p_k(x; w)``
    for the surrogate's parameters w and ``z`` of ones: GRAD^2 of Mazeika, Li and Forsyth, "How to steer
    your adversary: targeted and efficient model stealing defenses with gradient redirection", ICML 2022,
    with the all-ones target. Every answer pulls the same way, so steps add up instead of cancelling.

    Deviations: the top class stays, which is why the paper's greedy solution does not do: for a given top
    probability the rest is greedy still, and the best of it is a concave function of that probability,
    whose maximum is searched down to 1e-9 for all rows at once. The surrogate is untrained without ``weights``;
    the paper's was trained for some epochs on answers.

    Cost: 0.15 ms a row in a batch of 32 with 10 classes, 2 with a LeNet as surrogate. What undoes it: training
    on labels alone, for the label stays; a learned inverse (D-DAE); a network unlike the surrogate.
    """

    type: Literal["gradient_redirection"] = "gradient_redirection"

    def moved(self, clean: Tensor, network: nn.Module, inputs: Tensor) -> Tensor:
        return redirected(clean, pull(network, inputs), self.epsilon)


def pull(network: nn.Module, inputs: Tensor) -> Tensor:
    """(B, C) how fast each log-probability of each row grows when all parameters grow alike."""
    parameters = list(network.parameters())
    with torch.enable_grad():
        log = network(inputs).log_softmax(dim=1)
        # the gradient is linear in the answer y, so the slope of its sum along y is c, wherever y is
        answer = torch.zeros_like(log, requires_grad=True)
        gradient = torch.autograd.grad(
            log, parameters, answer, create_graph=True, materialize_grads=True
        )
        total = torch.stack([part.sum() for part in gradient]).sum()
        return torch.autograd.grad(total, answer)[0]


def redirected(clean: Tensor, scores: Tensor, epsilon: float) -> Tensor:
    """(B, C) on the simplex that maximises ``scores``, within ``epsilon`` in L1, no class above clean's top.

    ``clean`` and ``scores`` are (B, C) float64. All rows are solved at once.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    scores, sorted_clean = scores.gather(1, order), clean.gather(1, order)
    top = order == clean.argmax(dim=1, keepdim=True)  # (B, C)
    least, most = _range_of_top(sorted_clean, top, epsilon / 2)
    steps = torch.linspace(0, 1, GRID, dtype=clean.dtype, device=clean.device)
    for _ in range(ROUNDS):
        tried = least + (most - least) * steps  # (B, G)
        gains = torch.einsum("bgc,bc->bg", _filled(sorted_clean, top, tried, epsilon / 2), scores)
        best = gains.argmax(dim=1, keepdim=True)
        least = tried.gather(1, (best - 1).clamp_min(0))
        most = tried.gather(1, (best + 1).clamp_max(GRID - 1))
    found = _filled(sorted_clean, top, tried.gather(1, best), epsilon / 2)[:, 0]
    return torch.zeros_like(clean).scatter(1, order, found)


def _range_of_top(clean: Tensor, top: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """(B, 1) least and largest top probability that moving ``half`` of the mass can reach."""
    largest = clean.sort(dim=1, descending=True).values
    count = torch.arange(1, clean.shape[1] + 1, dtype=clean.dtype, device=clean.device)
    # to lower the top to t, all that lies above t goes: at most half
    least = ((largest.cumsum(dim=1) - half) / count).amax(dim=1, keepdim=True)
    most = (clean[top][:, None] + half).clamp_max(1.0)
    return least.clamp_min(1.0 / clean.shape[1]).minimum(most), most


def _filled(clean: Tensor, top: Tensor, tried: Tensor, half: float) -> Tensor:
    """(B, G, C) the best rows with a top probability of ``tried`` (B, G); classes come by falling score."""
    limit = tried[:, :, None]
    other = (~top).to(clean.dtype)[:, None]  # (B, 1, C)
    rest = clean[:, None].minimum(limit) * other
    room, missing = limit * other - rest, 1.0 - limit - rest.sum(dim=2, keepdim=True)
    # without the budget: the best classes are full, one is partly full, the others are empty
    greedy = _taken(1.0 - limit, limit * other)
    wanted = (greedy - rest).clamp_min(0.0).sum(dim=2, keepdim=True)
    allowed = half - (limit - clean[top][:, None, None]).clamp_min(0.0)
    added = wanted.minimum(allowed).maximum(missing.clamp_min(0.0))
    given = _taken((added - missing).clamp_min(0.0), rest.flip(2)).flip(2)
    return rest + _taken(added, room) - given + limit * (1.0 - other)


def _taken(amount: Tensor, capacity: Tensor) -> Tensor:
    """``amount`` (..., 1) handed out to ``capacity`` (..., C), first come first served."""
    before = capacity.cumsum(dim=-1) - capacity
    return (amount - before).clamp_min(0.0).minimum(capacity)
