"""Jacobian-based data augmentation (Papernot et al., 2017) and its targeted form (Juuti et al., 2019)."""

import torch
from torch import Tensor, nn

from redteam.attacks.transfer import Progress, Transfer, silent, substitute, train
from redteam.oracle import Oracle

EPOCHS = 10
STEPS = 5
"""Small steps of the targeted form."""


def jbda(
    oracle: Oracle,
    seeds: Tensor,
    *,
    generator: torch.Generator,
    rounds: int = 6,
    step: float = 0.1,
    targeted: bool = False,
    progress: Progress = silent,
) -> Transfer:
    """Double the rows in every round but the last, each new one a step from an old one.

    ``seeds`` (n, *shape) in [0, 1]. The step goes along the sign of the substitute's gradient: up the
    score of the victim's label, or with ``targeted`` (JBDA-TR, T-RND) in `STEPS` small steps towards a
    random other class. Answers are kept, so n * 2 ** (rounds - 1) rows are sent and none twice. The
    substitute is trained anew in every round.
    """
    total = len(seeds) * 2 ** (rounds - 1)
    transfer = Transfer(seeds, oracle.query(seeds))
    for _ in range(rounds - 1):
        progress(len(transfer.inputs), total)
        network = substitute(generator, classes=transfer.answers.shape[1])
        train(network, transfer, epochs=EPOCHS, generator=generator)
        new = _augmented(network, transfer, step, generator if targeted else None)
        transfer = Transfer(
            torch.cat([transfer.inputs, new]), torch.cat([transfer.answers, oracle.query(new)])
        )
    progress(total, total)
    return transfer


def _augmented(
    network: nn.Module, transfer: Transfer, step: float, generator: torch.Generator | None
) -> Tensor:
    """One new row for every old one; with a generator, towards a class drawn from it."""
    label = transfer.answers.argmax(dim=1)  # (n,)
    if generator is None:
        return _moved(network, transfer.inputs, label, step)
    classes = transfer.answers.shape[1]
    other = torch.randint(1, classes, label.shape, generator=generator)
    moved = transfer.inputs
    for _ in range(STEPS):
        moved = _moved(network, moved, (label + other) % classes, step / STEPS)
    return moved


def _moved(network: nn.Module, inputs: Tensor, towards: Tensor, step: float) -> Tensor:
    """Every row a step up the score of its class, within [0, 1]."""
    variable = inputs.clone().requires_grad_()
    score = network(variable).gather(1, towards[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, variable)
    return (inputs + step * gradient.sign()).clamp(0, 1)
