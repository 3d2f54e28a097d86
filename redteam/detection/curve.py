"""The extraction curve: how many rows and cells of feature space a clone of some agreement needs.

``python -m redteam.detection.curve CONFIG --own mnist.npz --foreign fashion_mnist.npz --output CURVE.json``
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn

from detectors.coverage import Coverage
from mantlet.data import load_images
from mantlet.errors import ConfigError
from mantlet.plugin import ThresholdDetector
from mantlet.types import Query
from redteam import measures
from redteam.learning import Means, Training, Transfer, train
from redteam.treatments.augment import Augment
from serving import build, settings
from serving.pipeline import Pipeline

BUDGETS = (5, 10, 25, 50, 100, 200, 400, 800, 1600, 3200, 6400)
STEPS = 1000
"""Updates of every clone, whatever its budget."""
AUGMENT = Augment()
"""What the thief does with its rows, which costs it no query."""
JUDGED = 2000
"""Rows of the victim's own test split on which clone and victim are compared."""


def measure(
    pipeline: Pipeline,
    pools: Mapping[str, np.ndarray],
    test: np.ndarray,
    *,
    thief: Means,
    budgets: Sequence[int] = BUDGETS,
    seeds: int = 1,
    steps: int = STEPS,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, object]:
    """The curve as `detectors.coverage` reads it: of every pool (n, *shape), means over ``seeds``.

    A thief sends rows of a pool in random order and trains a clone on the probabilities, of altered
    copies of the rows too.
    """
    coverage = next((d for d in pipeline.detectors if isinstance(d, Coverage)), None)
    if coverage is None:
        raise ConfigError("the model has no detector of type coverage; add one and calibrate")
    inputs = torch.from_numpy(test)
    named = measures.clean(pipeline.victim, inputs).argmax(dim=1)
    measured = []
    for name, pool in pools.items():
        found = np.zeros((2, seeds, len(budgets)))  # cells, agreement
        for seed, place in np.ndindex(seeds, len(budgets)):
            order = np.random.default_rng(seed).permutation(len(pool))
            rows = torch.from_numpy(pool[order[: budgets[place]]])
            clone = _clone(pipeline, rows, thief, steps=steps, seed=seed)
            agreement = measures.accuracy(measures.probabilities(clone, inputs), named)
            found[:, seed, place] = _cells(pipeline, coverage, rows), agreement
            progress(f"{name}: {budgets[place]} rows, agreement {agreement:.3f}")
        cells, agreed = found.mean(axis=1).round(4).tolist()
        measured.append({"pool": name, "rows": list(budgets), "cells": cells, "agreement": agreed})
    return {
        "victim": pipeline.victim.fingerprint,
        "planes": coverage.planes,
        "clone": {**_learned(thief, steps), "seeds": seeds},
        "pools": measured,
    }


def _learned(thief: Means, steps: int) -> dict[str, object]:
    """How a clone came about."""
    return {
        "architecture": thief.architecture,
        "settings": dict(thief.settings),
        "steps": steps,
        "treatments": [AUGMENT.model_dump()],
    }


def _cells(pipeline: Pipeline, coverage: ThresholdDetector, rows: Tensor) -> int:
    """Cells that the rows open."""
    scored = []
    for part in torch.split(rows, 256):
        query = Query(["thief"] * len(part), part, 0.0)
        scored.append(coverage.score(query, pipeline.predict(query)))
    return len(np.unique(torch.cat(scored).numpy()))


def _clone(pipeline: Pipeline, rows: Tensor, means: Means, *, steps: int, seed: int) -> nn.Module:
    """A network trained on what the victim answers, as the bench's thieves train theirs."""
    generator = torch.Generator().manual_seed(seed)
    clone = means.network(generator)
    answered = Transfer(rows, measures.clean(pipeline.victim, rows))
    treated = AUGMENT.apply(answered, means, generator)
    train(clone, treated, Training(steps=steps), generator)
    return clone


def main(
    config: Annotated[Path, typer.Argument(help="A gateway's config.")],
    own: Annotated[Path, typer.Option(help="Pictures of the victim's own kind, .npz.")],
    output: Annotated[Path, typer.Option(help="The JSON to write.")],
    foreign: Annotated[list[Path], typer.Option(help="Foreign pictures. Repeatable.")] = [],  # noqa: B006  # typer reads it
    model: Annotated[str, typer.Option(help="Which model of the config.")] = "",
    architecture: Annotated[str, typer.Option(help="The clone's; a narrow LeNet by default.")] = "",
    seeds: Annotated[int, typer.Option(help="Clones of each budget.")] = 1,
) -> None:
    """Measure the extraction curve of a model that is calibrated, without its defenses."""
    loaded = settings.load(config)
    name = model or next(iter(loaded.models))
    bare = [
        d.model_copy(update={"curve": None}) if isinstance(d, Coverage) else d
        for d in loaded.models[name].detectors
    ]
    served = loaded.models[name].model_copy(update={"detectors": tuple(bare)})
    pipeline = build.load_pipeline(name, served, loaded)
    pools = {path.stem: load_images(path, "train").x for path in (own, *foreign)}
    test = load_images(own, "test").x[:JUDGED]
    own_pool = torch.from_numpy(test)
    thief = (
        Means(own_pool, architecture=architecture, settings={}) if architecture else Means(own_pool)
    )
    curve = measure(pipeline, pools, test, thief=thief, seeds=seeds, progress=typer.echo)
    output.write_text(json.dumps(curve, indent=1) + "\n", encoding="utf-8")
    pipeline.victim.close()


if __name__ == "__main__":
    typer.run(main)
