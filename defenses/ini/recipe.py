"""The settings of training with Isolation and Induction."""

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from torch import Tensor

from defenses.ini.losses import Direction
from defenses.ini.pool import Drawn
from mantlet.training import RecipeFile

Settings = dict[str, int | float | str | bool]


class IniRecipe(RecipeFile):
    """How to train a victim that answers a thief's foreign queries uselessly (Guo et al., 2023).

    Each step takes ``batch`` rows of the data and ``foreign_batch`` foreign rows, of which ``drawn_share``
    are drawn in code. Terms: cross-entropy; ``beta`` times L2, distance from the student on own rows;
    ``gamma`` times L3, induction; ``delta`` times L4, isolation; ``epsilon`` times L5, the size of what a
    thief learns. A term of weight 0 is left out. Same recipe, data and seed: same weights on one machine.
    """

    kind: Literal["ini"]
    architecture: str
    settings: Settings = Field(default_factory=dict)
    defended: bool = True
    """Off: the undefended baseline, by the same optimiser, schedule and rows, without the terms."""
    warm_start: Path | None = None
    """Weights to begin with; batch norms then keep their statistics."""

    beta: NonNegativeFloat = 0.0
    gamma: NonNegativeFloat = 1.0
    delta: NonNegativeFloat = 1.0
    epsilon: NonNegativeFloat = 1.0
    induced: Literal["student", "entropy", "useless"] = "useless"
    """What foreign rows are answered: as the random student would, high entropy, or one useless answer."""
    favourite: Annotated[int, Field(ge=0)] = 8
    """The class that the useless answer names."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """The probability that the useless answer gives it."""
    student: Literal["frozen", "trained"] = "frozen"
    """``frozen``: random and never trained, as published; ``trained``: it steals along."""
    student_settings: Settings = Field(default_factory=dict)
    """Where the student's differ from the victim's; a smaller one is cheaper."""
    student_lr: PositiveFloat = 0.01
    direction: Direction = "published"
    """Of the Kullback-Leibler divergence whose gradient the simulated thief follows."""
    normalised: bool = True
    """L5 as a share of the useful gradient; off: its mean absolute value, as published."""
    combine: Literal["pcgrad", "sum"] = "pcgrad"
    """Gradient surgery and the mean, as published; or the plain sum of the terms."""

    drawn: tuple[Drawn, ...] = ("mixed", "strokes", "glyphs")
    drawn_rows: Annotated[int, Field(ge=100)] = 30_000
    drawn_share: Annotated[float, Field(ge=0, le=1)] = 0.6
    symmetric: tuple[int, ...] = ()
    """Classes whose mirrored or turned pictures are still of a class."""

    epochs: PositiveInt = 12
    batch: PositiveInt = 128
    foreign_batch: PositiveInt = 128
    lr: PositiveFloat = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    clip: NonNegativeFloat = 0.0
    """Largest norm of a step's gradient; 0 for any. A warm start needs it: its first foreign rows are a shock."""
    schedule: Literal["one_cycle", "steps"] = "one_cycle"
    """``steps``: a tenth of the rate after 0.4 and again after 0.8 of the epochs, as published."""
    mean: tuple[float, ...] = ()
    """Subtracted from inputs in [0, 1], one number a channel or one for all; as in the victim's settings."""
    std: tuple[PositiveFloat, ...] = ()
    """Divides them after that; as many numbers as ``mean``."""
    shift: Annotated[int, Field(ge=0, le=8)] = 2
    holdout: Annotated[int, Field(ge=0)] = 5000
    seed: Annotated[int, Field(ge=0)] = 0
    output: Path

    @model_validator(mode="after")
    def _normalisation_fits(self) -> "IniRecipe":
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers, std {len(self.std)}; give both")
        return self

    def recorded(self) -> str:
        """The settings as JSON, without the paths of this machine."""
        return self.model_dump_json(exclude={"output", "warm_start"})

    def normalised_inputs(self, inputs: Tensor) -> Tensor:
        """(x - mean) / std by channel of (B, C, H, W) in [0, 1]."""
        if not self.mean:
            return inputs
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (self.mean, self.std))
        return (inputs - mean) / std
