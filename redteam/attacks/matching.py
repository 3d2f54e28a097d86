"""Training on explanations: the clone's gradients are fit to the maps, beside its answers to the answers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from redteam.learning import Loss, Transfer, soft

View = Callable[[Tensor], Tensor]
"""From (B, *shape) gradients of the clone to what would be shown of them, differentiable."""
TINY, SLACK = 1e-20, 1e-3


def as_shown(pool: int, gamma: float = 1.0) -> View:
    """Magnitudes of (B, C, H, W) gradients, averaged over ``pool`` x ``pool`` pixels, as shares of the largest to a power."""

    def view(gradients: Tensor) -> Tensor:
        pooled = nn.functional.avg_pool2d(gradients.abs(), pool, ceil_mode=True)
        shares = pooled / pooled.amax(dim=(1, 2, 3), keepdim=True).clamp_min(TINY)
        # the slope of a power under 1 has no bound at zero
        return nn.functional.interpolate((shares + SLACK) ** gamma, gradients.shape[2:])

    return view


def matching(weight: float, view: View | None = None) -> Loss:
    """Soft cross-entropy, and ``weight`` times one less the cosine of map and gradient.

    Gradients are those of the log-probability of the answer's top class; rows whose map is zero were not
    explained, and add nothing. Reconstruction of models from explanations (Milli, Schmidt, Dragan and
    Hardt, 2019), with a direction in place of a difference, since maps lose their scale.
    """

    def loss(network: nn.Module, transfer: Transfer, rows: Tensor) -> Tensor:
        if transfer.maps is None:
            return soft(network, transfer, rows)
        inputs = transfer.inputs[rows].requires_grad_()
        answers, maps = transfer.answers[rows], transfer.maps[rows]
        scores = network(inputs)
        top = torch.log_softmax(scores, dim=1).gather(1, answers.argmax(dim=1, keepdim=True))
        (gradients,) = torch.autograd.grad(top.sum(), inputs, create_graph=True)
        shown = gradients if view is None else view(gradients)
        alike = nn.functional.cosine_similarity(shown.flatten(1), maps.flatten(1))
        explained = maps.flatten(1).any(dim=1)  # (B,)
        apart = torch.where(explained, 1 - alike, 0).mean()
        return nn.functional.cross_entropy(scores, answers) + weight * apart

    return loss
