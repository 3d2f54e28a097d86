"""Data-free model extraction (Truong, Maini, Walls and Papernot, 2021): a generator in place of data."""

import torch
from torch import Tensor, nn

from redteam.attacks.transfer import Progress, Transfer, silent, substitute
from redteam.oracle import Oracle

LATENT = 64
CLONE_STEPS = 5
PROBE = 1e-3
"""How far a finite-difference probe lies from its picture, before the output's activation."""
FLOOR = 1e-6
"""Probabilities are raised to this before their logarithm is taken."""


def dfme(
    oracle: Oracle,
    *,
    budget: int,
    generator: torch.Generator,
    batch: int = 256,
    progress: Progress = silent,
) -> Transfer:
    """Train generator and clone in turns for ``budget`` rows of (1, 28, 28).

    A turn sends a batch of pictures, a probe beside each of them (one random unit direction, forward
    differences of the loss mean_k |s_k - v_k| on the generator's pre-activation output), and
    `CLONE_STEPS` batches to train the clone on. Its cost is ``batch`` * 7 rows; the last turn is whole.
    """
    maker, clone = _maker(generator), substitute(generator)
    up = torch.optim.Adam(maker.parameters(), lr=1e-3)
    down = torch.optim.SGD(clone.parameters(), lr=0.03, momentum=0.9)
    turns = -(-budget // (batch * (2 + CLONE_STEPS)))
    kept: list[tuple[Tensor, Tensor]] = []
    for turn in range(turns):
        raw = _made(maker, batch, generator)  # (B, 1, 28, 28), before the activation
        gradient = _victim_gradient(oracle, clone, raw.detach(), generator)
        up.zero_grad()
        raw.backward(-gradient)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        up.step()
        for _ in range(CLONE_STEPS):
            pictures = _activated(_made(maker, batch, generator).detach())
            answers = oracle.query(pictures)
            kept.append((pictures, answers))
            down.zero_grad()
            _disagreement(clone(pictures), answers).mean().backward()  # type: ignore[no-untyped-call]
            down.step()
        progress(turn + 1, turns)
    return Transfer(torch.cat([x for x, _ in kept]), torch.cat([y for _, y in kept]))


def _victim_gradient(
    oracle: Oracle, clone: nn.Module, raw: Tensor, generator: torch.Generator
) -> Tensor:
    """The loss's gradient on ``raw``, from one probe a picture."""
    direction = torch.randn(raw.shape, generator=generator)
    direction = direction / direction.flatten(1).norm(dim=1)[:, None, None, None]
    losses = []
    for at in (raw, raw + PROBE * direction):
        pictures = _activated(at)
        with torch.no_grad():
            scores = clone(pictures)
        losses.append(_disagreement(scores, oracle.query(pictures)))  # (B,)
    slope = (losses[1] - losses[0]) / PROBE
    gradient: Tensor = slope[:, None, None, None] * direction * (raw[0].numel() / len(raw))
    return gradient


def _disagreement(scores: Tensor, answers: Tensor) -> Tensor:
    """(B,) mean over classes of |s - v|, v the victim's logits as probabilities show them."""
    logs = answers.clamp_min(FLOOR).log()
    apart: Tensor = (scores - (logs - logs.mean(dim=1, keepdim=True))).abs().mean(dim=1)
    return apart


def _activated(raw: Tensor) -> Tensor:
    """Pictures in [0, 1]."""
    return (torch.tanh(raw) + 1) / 2


def _made(maker: nn.Module, batch: int, generator: torch.Generator) -> Tensor:
    made: Tensor = maker(torch.randn(batch, LATENT, generator=generator))
    return made


def _maker(generator: torch.Generator) -> nn.Module:
    """The paper's generator at 28x28: linear, two up-samplings, three convolutions, batch norms."""
    with torch.random.fork_rng():
        # layers draw from the global generator
        torch.random.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        return nn.Sequential(
            nn.Linear(LATENT, 32 * 49),
            nn.Unflatten(1, (32, 7, 7)),
            nn.BatchNorm2d(32),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(32, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.LeakyReLU(0.2),
            nn.Conv2d(16, 1, 3, padding=1),
            nn.BatchNorm2d(1, affine=False),
        )
