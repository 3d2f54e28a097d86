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


@dataclass(frozen=True, slots=True)
class InputSpec:
    """Shape of one row (without the batch axis), the closed range of its values, its name on the wire."""

    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None
    name: str = "input"
    datatype: str = "FP32"

    @property
    def size(self) -> int:
        """Numbers in one row."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Query:
    """Rows of many clients: ``inputs`` is (B, *shape), ``clients[i]`` sent row i, ``at`` is in seconds.

    A client is a keyed hash of its name or address, never a key and never a bare address.
    ``tiers[i]`` is the tier of row i's client; without tiers all are of the default tier.
    """

    clients: Sequence[str]
    inputs: Tensor
    at: float
    tiers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer to every row of a query.

    ``logits`` (B, C) and ``features`` (B, D) are there when the victim shows them; detectors read
    them, and the release step drops them.
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
    ``concurrency`` is how many predictions may be under way at once. ``trained_with`` says how the
    weights were made to resist, or nothing.
    """

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
    def classes(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def trained_with(self) -> str: ...
    def predict(self, inputs: Tensor) -> Prediction: ...
    def close(self) -> None: ...
