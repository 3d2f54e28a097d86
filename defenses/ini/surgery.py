"""Gradient surgery (PCGrad; Yu et al., 2020): tasks that pull against each other give way."""

from collections.abc import Sequence

import torch
from torch import Tensor


def averaged(gradients: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """The mean (p,) of task gradients (p,), each without its part that goes against another.

    Every gradient meets the others, as they were, in an order of chance and loses its component along
    each that it conflicts with. The mean, not the sum, is what the code of InI takes.
    """
    kept = []
    for own, gradient in enumerate(gradients):
        result = gradient
        for other in torch.randperm(len(gradients), generator=generator).tolist():
            against = gradients[other]
            dot = torch.dot(result, against)
            if other != own and dot < 0:
                result = result - dot / torch.dot(against, against).clamp_min(1e-24) * against
        kept.append(result)
    return torch.stack(kept).mean(dim=0)
