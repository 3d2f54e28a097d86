"""Picks pictures of a generator that look more like real ones, by its own leaked discriminator."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mantlet.errors import ConfigError

ROWS = 500
"""Pictures that are scored at once."""
NEWTON = 25
"""Steps in which the calibration converges."""
RIDGE = 1e-5
"""Keeps the calibration finite where scores part the two kinds completely."""
LARGEST = 20.0
"""Log-odds beyond are cut: they would stop a chain for good."""
Odds = Callable[[Tensor], Tensor]
"""(n,) log-odds that pictures (n, C, H, W) in [0, 1] are real."""


@torch.inference_mode()
def scores(discriminator: nn.Module, pictures: Tensor) -> Tensor:
    """(n,) float64 what a discriminator of pictures in [-1, 1] says of pictures in [0, 1]."""
    return torch.cat([discriminator(2 * part - 1) for part in torch.split(pictures, ROWS)]).double()


def calibrated(discriminator: nn.Module, real: Tensor, made: Tensor) -> Odds:
    """Log-odds of being real, by logistic regression on the scores of held-out real and made pictures (Platt, 2000).

    A discriminator is not calibrated as it leaves training, and the ratio D/(1-D) below is only then that of
    the densities (Turner et al., "Metropolis-Hastings generative adversarial networks", 2019). Both kinds count alike.
    """
    if len(real) < 2 or len(made) < 2:
        raise ConfigError(
            f"a discriminator is calibrated on {len(real)} real and {len(made)} made pictures; give two of each"
            " or more"
        )
    said = torch.cat([scores(discriminator, real), scores(discriminator, made)])
    told = torch.cat([torch.ones(len(real)), torch.zeros(len(made))]).double()
    share = torch.where(told > 0, 0.5 / len(real), 0.5 / len(made))
    rows = torch.stack([said, torch.ones_like(said)], dim=1)  # (n, 2)
    line = torch.zeros(2, dtype=torch.float64)
    for _ in range(NEWTON):
        chance = torch.sigmoid(rows @ line)
        slope = rows.T @ (share * (told - chance)) - RIDGE * line
        bend = rows.T @ (rows * (share * chance * (1 - chance))[:, None]) + RIDGE * torch.eye(2)
        line = line + torch.linalg.solve(bend, slope)

    def odds(pictures: Tensor) -> Tensor:
        found = scores(discriminator, pictures) * line[0] + line[1]
        return found.clamp(-LARGEST, LARGEST)

    return odds


def selected(odds: Tensor, *, chains: int, every: int, generator: torch.Generator) -> Tensor:
    """(m,) numbers of the proposals at which ``chains`` chains are after each ``every`` steps.

    ``odds`` (n,) are log-odds of the proposals, dealt to the chains in order; a chain begins at its first. A
    step from x to x' is taken with probability ``min(1, (1/D(x) - 1) / (1/D(x') - 1))``, D being the chance of being real.
    Source: Turner et al., 2019, as Hu and Pang (2021) use it on the pictures of a stolen API.
    """
    length = len(odds) // chains
    dealt = odds[: length * chains].view(chains, length)
    dice = torch.rand(chains, length, generator=generator, dtype=torch.float64).log()
    first = torch.arange(chains) * length
    now, at = torch.full((chains,), -torch.inf, dtype=torch.float64), first
    kept = []
    for step in range(length):
        taken = dice[:, step] <= dealt[:, step] - now
        now = torch.where(taken, dealt[:, step].double(), now)
        at = torch.where(taken, first + step, at)
        if (step + 1) % every == 0:
            kept.append(at)
    return torch.cat(kept) if kept else first[:0]
