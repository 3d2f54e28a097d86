"""The terms of Isolation and Induction (Guo et al., 2023): what a thief's gradient shall not be."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mantlet.errors import ConfigError

Direction = Literal["published", "attacker"]
"""``published``: KL[p_S : p_V], as the authors' code has it; ``attacker``: KL[p_V : p_S], which is what
thieves lower in truth."""
Gradient = Sequence[Tensor]
"""One tensor for each parameter of the student."""


def centred(logits: Tensor) -> Tensor:
    """Log-probabilities (B, C) less their mean over the classes."""
    logs = nn.functional.log_softmax(logits, dim=1)
    return logs - logs.mean(dim=1, keepdim=True)


def distance(student: Tensor, victim: Tensor) -> Tensor:
    """Mean absolute difference of the student's logits from the victim's centred log-probabilities.

    L3 on foreign rows; L2, on the model's own rows, is its negative. The student gets no gradient.
    """
    return (student.detach() - centred(victim)).abs().mean()


def negative_entropy(victim: Tensor) -> Tensor:
    """Minus the mean entropy, in nats: L3 as the flag of the authors' code has it."""
    logs = nn.functional.log_softmax(victim, dim=1)
    return (logs.exp() * logs).sum(dim=1).mean()


def useless(victim: Tensor, favourite: int, share: float) -> Tensor:
    """Cross-entropy to one answer for all rows: ``share`` for a ``favourite`` class, the rest in equal parts.

    It is no part of the paper. A uniform answer (``share`` 1/C) still has a label, which leaks; this
    one has the same label everywhere.
    """
    classes = victim.shape[1]
    if favourite >= classes:
        raise ConfigError(
            f"favourite {favourite} is no class of {classes}; name one below {classes}"
        )
    wanted = victim.new_full((classes,), (1 - share) / (classes - 1))
    wanted[favourite] = share
    return nn.functional.cross_entropy(victim, wanted.expand(len(victim), classes))


def thief_gradient(student: nn.Module, inputs: Tensor, victim: Tensor, how: Direction) -> Gradient:
    """Gradient of the thief's loss over the student's parameters, differentiable in ``victim`` logits."""
    mine = nn.functional.log_softmax(student(inputs), dim=1)
    theirs = nn.functional.log_softmax(victim, dim=1)
    first, second = (mine, theirs) if how == "published" else (theirs, mine)
    divergence = (first.exp() * (first - second)).sum(dim=1).mean()
    return torch.autograd.grad(divergence, list(student.parameters()), create_graph=True)


def useful_gradient(student: nn.Module, inputs: Tensor, labels: Tensor) -> Gradient:
    """Gradient of the student's cross-entropy with the true labels, detached."""
    loss = nn.functional.cross_entropy(student(inputs), labels)
    return [g.detach() for g in torch.autograd.grad(loss, list(student.parameters()))]


def cosine(first: Gradient, second: Gradient) -> Tensor:
    """Cosine of two gradients, taken as one vector each: L4."""
    dot = torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()
    return dot / (_norm(first) * _norm(second)).clamp_min(1e-12)


def size(gradient: Gradient) -> Tensor:
    """Mean absolute value over all parameters: L5 as published."""
    return _total(gradient) / sum(part.numel() for part in gradient)


def relative_size(gradient: Gradient, useful: Gradient) -> Tensor:
    """L1 norm as a share of the useful gradient's: L5 that does not depend on the network's size."""
    return _total(gradient) / _total(useful).clamp_min(1e-12)


def _total(gradient: Gradient) -> Tensor:
    return torch.stack([part.abs().sum() for part in gradient]).sum()


def _norm(gradient: Gradient) -> Tensor:
    return torch.stack([part.square().sum() for part in gradient]).sum().clamp_min(1e-24).sqrt()
