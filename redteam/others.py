"""What stands before another victim than the one that the default ships with: its weights, its detectors."""

from collections.abc import Iterable
from pathlib import Path

import torch
from rich.progress import Progress

from mantlet import training, weights
from mantlet.data import load_images
from mantlet.plugin import Detector

OF_ONE_MODEL = {"classifier", "curve"}
"""Settings of detectors that name files made for one model. Levels by agreement need the curve."""


def trained(path: Path, recipe: Path, data: Path, what: str) -> None:
    """Train the recipe's network into ``path``, where there is none yet (minutes)."""
    if path.is_file():
        return
    plan = training.Recipe.load(recipe)
    with Progress(transient=True) as bar:
        task = bar.add_task(f"training {what}")
        network = training.fit(
            plan,
            load_images(data, "train"),
            device=torch.device("cpu"),
            progress=lambda p: bar.update(task, completed=p.step, total=p.steps),
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    weights.save(network, path, {"recipe": plan.model_dump_json(exclude={"output"})})


def general(shipped: Iterable[Detector]) -> tuple[Detector, ...]:
    """The detectors, not loaded yet, without what was made for the shipped model alone."""
    return tuple(
        type(one).model_validate(one.model_dump(by_alias=True, exclude=OF_ONE_MODEL))
        for one in shipped
    )
