"""The values that travel through the gateway: frozen, with slots, and few."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType, Protocol

import numpy as np
import torch
from torch import Tensor


class Kind(StrEnum):
    """What the values of a prediction are.

    ``PROBABILITIES`` (B, C) on the simplex; ``LABELS`` (B,) int64, a release form only;
    ``IMAGES`` (B, C, H, W) in [0, 1]; ``ATTRIBUTIONS`` (B, *input shape).
    """

    PROBABILITIES = "probabilities"
    LABELS = "labels"
    IMAGES = "images"
    ATTRIBUTIONS = "attributions"


class Task(StrEnum):
    """What a model does: ``CLASSIFY`` answers probabilities; the others answer pictures.

    ``GENERATE`` makes them of latents (B, D), ``TRANSLATE`` of pictures (B, C, H, W).
    """

    CLASSIFY = "classify"
    GENERATE = "generate"
    TRANSLATE = "translate"

    @property
    def kind(self) -> Kind:
        """What its predictions are."""
        return Kind.PROBABILITIES if self is Task.CLASSIFY else Kind.IMAGES


OPEN = -1
"""An axis whose length the rows decide."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """Shape of one row (without the batch axis), the closed range of its values, its name on the wire.

    An axis of `OPEN` takes any length; ``max_pixels`` bounds what a picture of such a size may have.
    ``max_norm`` bounds the Euclidean norm of a row.
    """

    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None
    name: str = "input"
    datatype: str = "FP32"
    max_norm: float | None = None
    max_pixels: int | None = None

    @property
    def size(self) -> int:
        """Numbers in one row of a fixed shape."""
        return math.prod(self.shape)

    @property
    def is_open(self) -> bool:
        """Whether rows may have several shapes."""
        return OPEN in self.shape

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether a row may have this shape."""
        return len(shape) == len(self.shape) and all(
            length > 0 and axis in (length, OPEN)
            for axis, length in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Query:
    """Rows of many clients: ``inputs`` is (B, *shape), ``clients[i]`` sent row i, ``at`` is in seconds.

    A client is a keyed hash of its name or address, never a key and never a bare address.
    ``tiers[i]`` is the tier of row i's client; without tiers all are of the default tier. ``identities[i]``
    is who pays for that client, several clients perhaps; without identities each client is its own.
    """

    clients: Sequence[str]
    inputs: Tensor
    at: float
    tiers: Sequence[str] = ()
    identities: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer to every row of a query.

    ``logits`` (B, C) and ``features`` (B, D) are there when the victim shows them; detectors read
    them, and the release step drops them. Features of pictures are pooled thumbnails.
    """

    values: Tensor
    kind: Kind
    logits: Tensor | None = None
    features: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """A detector's opinion of each row's client, just after that row.

    ``suspicion`` (B,) in [0, 1]: 0 nothing speaks against the client, 1 the alarm's threshold is
    reached. ``alarm`` (B,) bool: latched, once true for a client it stays true.
    """

    suspicion: Tensor
    alarm: Tensor
    reason: str


def suspicion_of(signals: Mapping[str, Signal], rows: int) -> Tensor:
    """(B,) the largest suspicion of each of ``rows`` rows; 0 where nobody spoke."""
    if not signals:
        return torch.zeros(rows)
    return torch.stack([signal.suspicion for signal in signals.values()]).amax(dim=0)


def rows_by_client(clients: Sequence[str]) -> dict[str, Sequence[int]]:
    """Which rows each client sent, in order."""
    if clients.count(clients[0]) == len(clients):
        return {clients[0]: list(range(len(clients)))}
    rows_of: dict[str, list[int]] = {}
    for row, client in enumerate(clients):
        rows_of.setdefault(client, []).append(row)
    return dict(rows_of)


State = Mapping[str, np.ndarray]
"""One detector's memory of one client: named arrays, nothing else, bounded by the settings."""

Released = NewType("Released", Prediction)
"""What may leave the house. Only ``serving.pipeline`` makes one; the encoders take nothing else."""


class Victim(Protocol):
    """The protected model: ``predict`` maps (B, *input.shape) float32 to a clean prediction.

    ``fingerprint`` identifies the weights (SHA-256 in hex); calibrations are bound to it.
    ``output`` is the name of the answer on the wire, ``version`` that of the model there.
    ``output_shape`` is that of one answer, with axes of `OPEN` where the input decides; ``classes`` is 0
    for pictures. ``concurrency`` is how many predictions may be under way at once. ``trained_with`` says how the
    weights were made to resist, or nothing.
    """

    @property
    def task(self) -> Task: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def input(self) -> InputSpec: ...
    @property
    def output(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def output_shape(self) -> tuple[int, ...]: ...
    @property
    def classes(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def trained_with(self) -> str: ...
    def predict(self, inputs: Tensor) -> Prediction: ...
    def close(self) -> None: ...
