"""How near the gradient that a thief climbs is to the true one: no training, a check in seconds."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from redteam.attacks.attack import Ledger
from redteam.attacks.data_free import activated
from redteam.attacks.dfme import Dfme
from redteam.client.oracle import Oracle
from redteam.learning import Means

PICTURES = 256
TURNS = 40
"""After which a prior that learns on the clone has learned."""


def cosine(
    attack: Dfme,
    oracle: Oracle,
    logits: Callable[[Tensor], Tensor],
    *,
    shape: tuple[int, ...],
    clone: nn.Module | None = None,
    turns: int = 1,
    seed: int = 0,
) -> float:
    """Mean cosine over `PICTURES` of the slopes that the generator is given and those of ``logits``.

    Both are of the disagreement, before the generator's activation, at Gaussian numbers; ``logits`` are
    the victim's, with a graph. The last of ``turns`` counts. The clone is a new one by default.
    """
    generator = torch.Generator().manual_seed(seed)
    means = Means(torch.zeros(0, *shape))
    clone = means.network(generator) if clone is None else clone
    slopes = attack.guide(means, generator)
    ledger = Ledger(oracle, 10**9)
    for _ in range(turns):
        raw = torch.randn(PICTURES, *shape, generator=generator)
        used = slopes(clone, ledger, raw, generator)
    variable = raw.clone().requires_grad_()
    pictures = activated(variable)
    loss = attack.disagreement(clone(pictures), torch.softmax(logits(pictures), dim=1)).mean()
    (true,) = torch.autograd.grad(loss, variable)
    return float(nn.functional.cosine_similarity(used.flatten(1), true.flatten(1)).mean())
