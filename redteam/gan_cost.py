"""What the defenses of a served generator cost on a batch, as a ratio within one run."""

from statistics import median
from time import perf_counter
from typing import Any

import torch

from mantlet.types import Query
from redteam.gan_cases import MARKED, UNDEFENDED
from redteam.gan_house import House
from serving.pipeline import Pipeline

ROWS, ROUNDS = 32, 60


def chain_cost(house: House) -> dict[str, Any]:
    """Milliseconds of a batch of 32 pictures bare, and with each output defense over that; of answers as JSON, too."""
    names = (UNDEFENDED, MARKED, "gaussian_noise", "blur", "jpeg")
    pipelines = {name: house.served(name) for name in names}
    took = alternating(pipelines, house.bench.size.victim.latent)
    bare = took[UNDEFENDED]
    ratios = {name: round(ms / bare, 3) for name, ms in took.items() if name != UNDEFENDED}
    return {
        "rows": ROWS,
        "bare_ms": round(bare, 3),
        "ratio": ratios,
        "defense_ms": {name: round(ms - bare, 3) for name, ms in took.items() if name in ratios},
    }


def alternating(pipelines: dict[str, Pipeline], latent: int) -> dict[str, float]:
    """The median ms of each, batch by batch in turns."""
    spent: dict[str, list[float]] = {name: [] for name in pipelines}
    generator = torch.Generator().manual_seed(0)
    for _ in range(ROUNDS):
        query = Query(["client"] * ROWS, torch.randn(ROWS, latent, generator=generator), 0.0)
        for name, pipeline in pipelines.items():
            start = perf_counter()
            pipeline.run(query, {})
            spent[name].append(1000 * (perf_counter() - start))
    return {name: median(times) for name, times in spent.items()}
