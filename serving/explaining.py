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
        method = options.get("method", "")
        if not isinstance(method, str):
            raise RequestError(400, f"'method' is {method!r:.40}; wanted a text")
        return self.ask(rows, method, _named(options))

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
                    400,
                    f"class {wanted!s:.40} does not exist; this model has 0 to {self.outputs - 1}",
                )
        return torch.tensor(named, dtype=torch.int64)


def _named(options: Mapping[str, Any]) -> Sequence[int] | int | None:
    """The ``class`` or the ``classes`` that a request names."""
    one, every = options.get("class"), options.get("classes")
    if one is not None and every is not None:
        raise RequestError(400, "'class' and 'classes' are there; send one of them")
    if every is not None:
        wanted = [_whole(value) for value in every] if isinstance(every, list) else [None]
        known = [value for value in wanted if value is not None]
        if len(known) < len(wanted):
            hint = "; send it in JSON" if isinstance(every, str) else ""
            raise RequestError(
                400, f"'classes' must be a list of whole numbers, one for each row{hint}"
            )
        return known
    if isinstance(one, str) and re.fullmatch("-?[0-9]{1,1000}", one):  # behind a '?' all is text
        return int(one)
    chosen = _whole(one)
    if one is not None and chosen is None:
        raise RequestError(400, f"'class' is {one!r:.40}; wanted a whole number")
    return chosen


def _whole(value: object) -> int | None:
    """A whole number of JSON; those beyond 64 bits are parsed as floating ones."""
    if type(value) is float and abs(value) >= 2**63:
        return int(value)
    return value if type(value) is int else None
