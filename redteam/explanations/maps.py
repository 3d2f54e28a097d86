"""What maps are worth to people: whether they rank places as the true ones do, and find what matters."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from mantlet import architectures, regions
from redteam.learning import Training, Transfer, seeded, train

CELL = 4
"""Side of a square that people see as one place."""
SHAPES, SIDE = 4, 8
"""Classes of the drawn task, and the side of what is drawn."""


@dataclass(frozen=True, slots=True)
class Task:
    """Pictures (n, 1, 28, 28), their classes (n,), and row and column (n, 2) of the upper left corner."""

    pictures: Tensor
    labels: Tensor
    corners: Tensor


def rank_correlation(true: Tensor, served: Tensor) -> float:
    """Mean Spearman correlation over rows of the cells of true (n, C, H, W) and of served maps; 0 where one is flat."""
    pairs = zip(_cells(true).numpy(), _cells(served).numpy(), strict=True)
    found = [
        spearmanr(one, other).statistic if np.ptp(one) and np.ptp(other) else 0.0
        for one, other in pairs
        if one.any() and other.any()
    ]
    return float(np.mean(found))


@torch.no_grad()
def areas(network: nn.Module, pictures: Tensor, maps: Tensor) -> tuple[float, float]:
    """Areas under the probability of the first answer: as cells are taken away, and as they are put in.

    In the order of the maps (n, C, H, W), the strongest first, from the pictures to black and from black to
    them (RISE; Petsiuk, Das and Saenko, 2018). Low is good for the first, high for the second.
    """
    order = _cells(maps).argsort(dim=1, descending=True, stable=True)  # (n, N)
    rank = order.argsort(dim=1)
    top = network(pictures).argmax(dim=1, keepdim=True)
    scores: list[list[Tensor]] = [[], []]
    side = regions.magnitudes(maps, CELL).shape[1:]
    for count in range(order.shape[1] + 1):
        gone = (rank < count).float().view(len(pictures), *side)
        mask = regions.spread(gone, pictures, CELL)
        for kept, part in zip(scores, (pictures * (1 - mask), pictures * mask), strict=True):
            kept.append(torch.softmax(network(part), dim=1).gather(1, top).mean())
    deletion, insertion = (float(torch.stack(kept).mean()) for kept in scores)
    return deletion, insertion


def pointing(maps: Tensor, task: Task) -> float:
    """Share of maps (n, 1, 28, 28) whose strongest cell touches what was drawn (Zhang et al., 2016)."""
    cells = regions.magnitudes(maps, CELL)
    strongest = cells.flatten(1).argmax(dim=1)
    place = torch.stack([strongest // cells.shape[2], strongest % cells.shape[2]], dim=1) * CELL
    touched = (place + CELL > task.corners) & (place < task.corners + SIDE)  # (n, 2)
    return float(touched.all(dim=1).double().mean())


def drawn(count: int, *, generator: torch.Generator) -> Task:
    """Frame, cross, stripes or dots, somewhere on grain: the shape is the class, and where it is is known."""
    labels = torch.randint(SHAPES, (count,), generator=generator)
    corners = torch.randint(28 - SIDE + 1, (count, 2), generator=generator)
    pictures = 0.4 * torch.rand(count, 1, 28, 28, generator=generator)
    shapes = _shapes()
    for row, (label, (y, x)) in enumerate(zip(labels, corners.tolist(), strict=True)):
        spot = pictures[row, 0, y : y + SIDE, x : x + SIDE]
        pictures[row, 0, y : y + SIDE, x : x + SIDE] = torch.maximum(spot, shapes[label])
    return Task(pictures, labels, corners)


def learned(generator: torch.Generator, *, rows: int = 4000, steps: int = 800) -> nn.Module:
    """A small network that tells the shapes apart."""
    task = drawn(rows, generator=generator)
    with seeded(generator):
        network = architectures.build("lenet", {"classes": SHAPES, "width": 8})
    answers = nn.functional.one_hot(task.labels, SHAPES).float()
    train(network, Transfer(task.pictures, answers), Training(steps=steps), generator)
    return network.eval()


def _shapes() -> Tensor:
    """(4, 8, 8) of as many bright pixels, nearly."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    edge = (y == 0) | (x == 0) | (y == SIDE - 1) | (x == SIDE - 1)
    cross = (y == x) | (y == SIDE - 1 - x) | (y == x + 1)
    dots = (y % 3 == 0) & (x % 3 == 0) | (y % 3 == 1) & (x % 3 == 0)
    return torch.stack([edge, cross, y % 3 == 0, dots]).float()


def _cells(maps: Tensor) -> Tensor:
    """(n, N) mean magnitudes."""
    return regions.magnitudes(maps, CELL).flatten(1)
