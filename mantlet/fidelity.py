"""How alike two sets of pictures are, in the features of a classifier: FID-lite, coverage and density.

The classifier is one of our own and not Inception, so the numbers compare with each other only, and only
at one count of pictures: the distance of small sets is biased upwards.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from mantlet.errors import ConfigError

ROWS = 500
"""Pictures embedded, and points compared, at once."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How alike drawn pictures are to real ones: ``fid`` from 0, ``coverage`` in [0, 1], ``density`` from 0."""

    fid: float
    coverage: float
    density: float


@torch.no_grad()  # not inference mode: others may learn from what is returned
def embedded(pictures: Tensor, network: nn.Module) -> Tensor:
    """Features (n, D) of pictures (n, C, H, W) in [0, 1], by the network's ``embed``."""
    if not hasattr(network, "embed"):
        raise ConfigError(
            f"{type(network).__name__} has no embed; name a classifier that shows features"
        )
    embed = cast("nn.Module", network.embed)
    return torch.cat([embed(part) for part in torch.split(pictures, ROWS)])


def fidelity(real: Tensor, drawn: Tensor) -> Fidelity:
    """All three numbers of features (n, D) of as many real as drawn pictures."""
    return Fidelity(frechet(real, drawn), coverage(real, drawn), density(real, drawn))


def frechet(first: Tensor, second: Tensor) -> float:
    """The Fréchet distance of two Gaussians fitted to features (n, D): 0 where they are the same.

    ``|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2))`` (Heusel et al., 2017), reckoned by torchmetrics.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance  # 1 s to import

    _as_many(first, second)
    as_they_are = nn.Identity()
    as_they_are.num_features = first.shape[1]  # type: ignore[assignment]  # how torchmetrics asks
    distance = FrechetInceptionDistance(feature=as_they_are)
    distance.update(first.double(), real=True)
    distance.update(second.double(), real=False)
    return max(0.0, float(distance.compute()))


def coverage(real: Tensor, drawn: Tensor, *, k: int = 5) -> float:
    """Share of real features (n, D) with a drawn one as near as their ``k``-th real neighbour.

    1 where nothing real was forgotten. Naeem et al., "Reliable fidelity and diversity metrics for generative
    models", 2020.
    """
    return float((_inside(real, drawn, k) > 0).float().mean())


def density(real: Tensor, drawn: Tensor, *, k: int = 5) -> float:
    """How many of the balls of `coverage` hold a drawn feature, over ``k``; about 1 of real pictures.

    Low where drawn pictures are unlike any real one. Naeem et al., 2020.
    """
    return float(_inside(real, drawn, k).sum()) / (k * len(drawn))


def _inside(real: Tensor, drawn: Tensor, k: int) -> Tensor:
    """(n,) how many drawn points lie in the ball of each real point."""
    _as_many(real, drawn)
    if not 1 <= k < len(real):
        raise ConfigError(
            f"k is {k} of {len(real)} pictures; take 1 or more, and fewer than pictures"
        )
    counts = []
    for part in torch.split(real, ROWS):
        # the nearest is the point itself
        radius = torch.cdist(part, real).kthvalue(k + 1, dim=1, keepdim=True).values
        counts.append((torch.cdist(part, drawn) <= radius).sum(dim=1))
    return torch.cat(counts)


def _as_many(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise ConfigError(
            f"features of shapes {tuple(first.shape)} and {tuple(second.shape)}; both must be (n, D) with as"
            " many pictures, two or more: the distance depends on how many there are"
        )
