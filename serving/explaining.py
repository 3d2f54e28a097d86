"""What a model explains, and of which class: its settings, and what a client asks for, checked."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from mantlet.attribution import METHODS, Explainer, Method, Of
from mantlet.errors import RequestError
from mantlet.registry import did_you_mean

PROXIED = "upstream"
"""The method of an explainer that is a server of its own."""
TOP = -1
"""The class of a row that its model thinks likeliest, whichever that is."""


class Explain(BaseModel):
    """What explanations a model gives; without this section none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: Annotated[tuple[Method, ...], Field(min_length=1)] = METHODS
    """Which of them clients may ask for; the first one where they name none. An upstream has its own."""
    of: Of = "log_probability"
    """What is explained of a class: its ``logit``, ``log_probability`` or ``probability``."""
    classes: Literal["top", "any"] = "top"
    """``top`` explains the likeliest class of a row alone; ``any`` lets clients name one."""
    steps: Annotated[int, Field(ge=2, le=512)] = 32
    """Steps of integrated gradients."""
    samples: Annotated[int, Field(ge=1, le=256)] = 16
    """Copies of a row with noise that SmoothGrad averages over."""
    sigma: NonNegativeFloat = 0.15
    """Standard deviation of that noise."""
    layer: str = ""
    """The layer that Grad-CAM looks at, such as ``convolutions.3``; the last convolution by default."""
    max_rows_per_request: PositiveInt = 64
    """A request for explanations of more rows is refused with 413."""


@dataclass(frozen=True, slots=True)
class Why:
    """What is asked about rows: by which ``method``, and of which class of each, (B,) int64; `TOP` is the likeliest."""

    method: str
    classes: Tensor

    def of(self, answers: Tensor, rows: Tensor) -> Tensor:
        """(n,) the classes to explain of some ``rows`` (n,), by their clean answers (n, C)."""
        chosen = self.classes[rows]
        return torch.where(chosen == TOP, answers.argmax(dim=1), chosen)


@dataclass(frozen=True)
class Explaining:
    """An explainer of a model with ``outputs`` classes, with what clients may ask of it."""

    explainer: Explainer
    outputs: int
    settings: Explain = field(default_factory=Explain)

    def read(self, rows: int, options: Mapping[str, Any]) -> Why:
        """What a request asks about its rows: ``method``, and ``class`` or ``classes``.

        Raises `RequestError`: 400 for what is no method and no class, and as `ask` does.
        """
        method, named = options.get("method", ""), options.get("class")
        if not isinstance(method, str):
            raise RequestError(400, f"'method' is {method!r:.40}; wanted a text")
        if isinstance(named, str) and re.fullmatch("[0-9]{1,9}", named):  # behind a '?' all is text
            named = int(named)
        every = options.get("classes")
        if named is not None and every is not None:
            raise RequestError(400, "'class' and 'classes' are there; send one of them")
        if named is not None and type(named) is not int:
            raise RequestError(400, f"'class' is {named!r:.40}; wanted a whole number")
        if every is not None and not (
            isinstance(every, list) and all(type(wanted) is int for wanted in every)
        ):
            raise RequestError(400, "'classes' must be a list of whole numbers, one for each row")
        return self.ask(rows, method, named if every is None else every)

    def ask(self, rows: int, method: str = "", classes: Sequence[int] | int | None = None) -> Why:
        """What a client asks about so many rows: one class for all, one for each, or the likeliest.

        Raises `RequestError`: 400 for what does not exist, 403 for a class where the likeliest alone is
        explained, 413 for too many rows.
        """
        if rows > self.settings.max_rows_per_request:
            raise RequestError(
                413,
                f"{rows} rows to explain in one request; at most"
                f" {self.settings.max_rows_per_request} are taken",
                reason="too_many_rows",
            )
        methods = self.explainer.methods
        if method and method not in methods:
            raise RequestError(
                400,
                f"method '{method[:40]}' is not known here; {did_you_mean(method[:40], methods)}",
            )
        return Why(method or methods[0], self._chosen(rows, classes))

    def _chosen(self, rows: int, classes: Sequence[int] | int | None) -> Tensor:
        if classes is None:
            return torch.full((rows,), TOP)
        if self.settings.classes == "top":
            raise RequestError(
                403,
                "only the likeliest class of a row is explained; leave 'class' out",
                reason="class_choice",
            )
        named = [classes] * rows if isinstance(classes, int) else list(classes)
        if len(named) != rows:
            raise RequestError(400, f"{len(named)} classes for {rows} rows; name one for each row")
        for wanted in named:
            if not 0 <= wanted < self.outputs:
                raise RequestError(
                    400, f"class {wanted} does not exist; this model has 0 to {self.outputs - 1}"
                )
        return torch.tensor(named, dtype=torch.int64)
