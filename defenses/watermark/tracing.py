"""Which client a marked picture was answered to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from defenses.watermark import bounds
from defenses.watermark.carriers import BIT_OF, BITS, MarkKey
from defenses.watermark.detection import SMALLEST, Found


@dataclass(frozen=True, slots=True)
class Suspect:
    """A client, how well its bits fit in [-1, 1], how many of the 32 agree, and the p-value.

    ``p`` bounds the chance that a client to whom the pictures were not answered fits as well, times the
    number of clients who were compared.
    """

    client: str
    fit: float
    agreeing: int
    p: float


def payload(found: Found, key: MarkKey) -> Tensor:
    """(BITS,) what the pictures say of each bit: its sign is the bit, its size how sure it is."""
    signs = key.model
    # the model's own pattern is known, and no part of a client's
    rest = found.coefficients - signs * (found.coefficients @ signs) / len(signs)
    return torch.zeros(BITS).index_add(0, BIT_OF, rest * key.client)


def trace(found: Found, key: MarkKey, clients: Sequence[str]) -> list[Suspect]:
    """The clients, most likely first.

    The bits of a client are a keyed hash of its name. For a client whose mark is not in the pictures they are
    fair coins, whatever else is: the bound of Chernoff on their sum holds, at best 2**-32.
    """
    return ranked(payload(found, key).double(), key, clients)


def ranked(said: Tensor, key: MarkKey, clients: Sequence[str]) -> list[Suspect]:
    """The clients by how well their bits fit what is ``said`` of each (BITS,) bit."""
    if not clients:
        return []
    bits = torch.stack([key.bits(client) for client in clients]).double()  # (n, BITS)
    totals = bits @ said
    logs = bounds.log_chernoff(said.numpy(), totals.numpy())
    p = np.clip(np.exp(logs) * len(clients), SMALLEST, 1.0)
    fits = totals / said.abs().sum().clamp(min=1e-30)
    agreeing = (bits * said > 0).sum(dim=1)
    order = torch.argsort(totals, descending=True, stable=True).tolist()
    return [Suspect(clients[i], float(fits[i]), int(agreeing[i]), float(p[i])) for i in order]
