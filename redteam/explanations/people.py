"""What defenses of maps leave to people: on shipped models, and where it is known what matters."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from mantlet.plugin import Defense
from redteam.explanations import maps
from redteam.explanations.explainable import gradients, judged, loaded, network, shown
from redteam.judging import Record
from redteam.pools import Pools

JUDGED, POINTED = 300, 1000
"""Pictures of a victim, and of the drawn task."""


def for_people(pools: Pools, name: str, defenses: Sequence[Defense], count: int = JUDGED) -> Record:
    """What defenses keep of the maps of a victim's first test pictures; pairs are of true maps and of served ones."""
    pictures = judged(pools, name)[0][:count]
    inside = network(name)
    true = gradients(inside, pictures)
    served = shown(loaded(defenses), pictures, true)
    areas = [maps.areas(inside, pictures, one) for one in (true, served)]
    return {
        "pictures": name,
        "rank_correlation": round(maps.rank_correlation(true, served), 4),
        "deletion": [round(area[0], 4) for area in areas],
        "insertion": [round(area[1], 4) for area in areas],
    }


def drawn_task(defenses: Sequence[Defense]) -> Record:
    """The pointing game where it is known what matters: of true maps and of served ones."""
    task, true = _task()
    served = shown(loaded(defenses), task.pictures, true)
    hits = [round(maps.pointing(one, task), 4) for one in (true, served)]
    return {"pictures": "drawn", "pointing": hits}


@cache
def _task() -> tuple[maps.Task, Tensor]:
    """The drawn pictures, and the maps (n, *shape) of a network that learned them."""
    generator = torch.Generator().manual_seed(0)
    inside = maps.learned(generator)
    task = maps.drawn(POINTED, generator=generator)
    return task, gradients(inside, task.pictures)
