"""What the defenses of a served generator cost on a batch, as a ratio within one run."""

from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch

from mantlet.types import Query
from redteam.gan.cases import MARKED, UNDEFENDED
from redteam.gan.house import House
from serving import encoding
from serving.pipeline import Pipeline

ROWS, ROUNDS = 32, 300


def chain_cost(house: House) -> dict[str, Any]:
    """Milliseconds of processor of a batch of 32 pictures bare, and what each output defense adds; with the answer in JSON, too."""
    names = (UNDEFENDED, MARKED, "gaussian_noise", "blur", "jpeg")
    pipelines = {name: house.served(name) for name in names}
    took = alternating(pipelines, house.bench.size.victim.latent)
    bare, answer = took[UNDEFENDED], _answered(house)
    ratios = {name: round(ms / bare, 3) for name, ms in took.items() if name != UNDEFENDED}
    return {
        "rows": ROWS,
        "bare_ms": round(bare, 3),
        "ratio": ratios,
        "json_ms": round(answer, 3),
        "ratio_answered": {n: round((took[n] + answer) / (bare + answer), 3) for n in ratios},
        "defense_ms": {name: round(ms - bare, 3) for name, ms in took.items() if name in ratios},
    }


def _answered(house: House) -> float:
    """The median ms in which the pictures of a batch become an answer in JSON."""
    pictures, spent = house.clean[:ROWS].numpy(), []
    for _ in range(ROUNDS):
        start = process_time()
        encoding.pictures(pictures, "", {})
        spent.append(1000 * (process_time() - start))
    return median(spent)


def alternating(pipelines: dict[str, Pipeline], latent: int) -> dict[str, float]:
    """The median ms of processor of each, batch by batch in turns: other processes do not count.

    Each round has an order of its own: what ran before decides what is left in the processor's caches.
    """
    spent: dict[str, list[float]] = {name: [] for name in pipelines}
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    for _ in range(ROUNDS):
        query = Query(["client"] * ROWS, torch.randn(ROWS, latent, generator=generator), 0.0)
        for name in rng.permutation(list(pipelines)):
            start = process_time()
            pipelines[name].run(query, {})
            spent[name].append(1000 * (process_time() - start))
    return {name: median(times) for name, times in spent.items()}
