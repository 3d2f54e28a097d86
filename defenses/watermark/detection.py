"""Whether pictures carry a model's mark, as a p-value that holds whatever the pictures are."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from defenses.watermark import bounds
from defenses.watermark.carriers import BIT_OF, BITS, COUNT, MarkKey
from defenses.watermark.reading import CHUNK, Reading, read
from defenses.watermark.registration import Places, allowed, best
from mantlet.finite import all_finite

SMALLEST = 1e-300
"""Smaller p-values are told as this one."""
MOVED = 1024
"""Pictures that are placed at once."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of a model's mark in a set of ``pictures``.

    ``p`` bounds the chance that a key that has nothing to do with the pictures fits them as well, all ways of
    looking counted; ``fit`` is the statistic, about normal without a mark. ``way`` tells how it was found:
    ``untouched``, all ``moved`` alike, or ``each`` by itself; ``scale`` is that at which it was.
    """

    p: float
    fit: float
    pictures: int
    way: str
    scale: float
    coefficients: Tensor


def detect(
    images: Tensor | Iterable[Tensor],
    key: MarkKey,
    *,
    whole: tuple[int, int] | None = None,
    scales: Sequence[float] = (),
) -> Found:
    """Look for the model's mark in (n, C, H, W) pictures in [0, 1], or in batches of several sizes.

    Batches are taken as they come, and none is kept.

    No original is needed. ``whole`` is the (height, width) that the pictures had before anybody cropped them,
    if it is known; ``scales`` are factors by which they may have been resized. Both change the number of
    places that are tried, which the p-value pays for.

    Given the pictures, the statistic is a sum of the key's signs with fixed weights. For a key that was drawn
    independently of the pictures the signs are fair coins, so `bounds.log_tail` holds without any
    assumption on the pictures; half of the error goes to the pictures as they are, the rest to all others.
    """
    factors = (1.0, *scales)
    parts: list[list[Reading]] = [[] for _ in factors]
    for batch in [images] if isinstance(images, Tensor) else images:
        for part, scale in zip(parts, factors, strict=True):
            part.append(read(_resized(batch, scale)))
    found = [
        search(Reading.joined(part), key, whole=whole, scale=scale, price=len(factors))
        for part, scale in zip(parts, factors, strict=True)
    ]
    return min(found, key=lambda one: one.p)


def search(
    reading: Reading,
    key: MarkKey,
    *,
    whole: tuple[int, int] | None = None,
    scale: float = 1.0,
    price: float = 1.0,
) -> Found:
    """`detect` in what was read; p-values are multiplied by ``price``.

    Raises `ValueError` where nothing was read, or waves that are not finite.
    """
    if not len(reading):
        raise ValueError("there are no pictures to look at")
    if not all_finite(reading.waves):
        raise ValueError("the waves of the pictures are not finite")
    places = allowed(reading.sizes, whole)
    waves, several = reading.whitened, len(reading) > 1
    mean = waves.mean(dim=0, keepdim=True)
    together = places.all(dim=0, keepdim=True)
    ways = looks(mean, key.model[None], key.client[None], together, 0.25 if several else 0.5)
    if several:
        ways.append(_each(waves, key, places))
    surest = min(ways, key=lambda way: float(way.log_p))
    p = min(1.0, max(SMALLEST, math.exp(float(surest.log_p)) * price))
    coefficients = surest.coefficients.reshape(-1)
    return Found(p, float(surest.fit), len(reading), surest.name, scale, coefficients)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to look at m sets: (m,) logs of p-values, their price paid, (m,) fits, and what was looked at."""

    name: str
    log_p: Tensor
    fit: Tensor
    coefficients: Tensor


def looks(waves: Tensor, model: Tensor, client: Tensor, places: Tensor, share: float) -> list[Way]:
    """Look at m sets of which (m, 2, K) are the mean waves, each with (m, COUNT) signs of its own key.

    ``untouched`` is where the gateway put the mark, and gets half of the error; ``moved`` is all pictures of a
    set cropped or mirrored alike, and gets ``share`` of it for the best of all ``places`` (m or 1, TILE, TILE).
    """
    as_is = Places.untouched(len(waves)).moved(waves)
    there = best(waves, model, places).moved(waves)
    count = 2 * places.sum(dim=(1, 2))
    return [
        _way("untouched", torch.tensor(2.0), as_is, fits(as_is, model, client)),
        _way("moved", count / share, there, fits(there, model, client)),
    ]


def _each(waves: Tensor, key: MarkKey, places: Tensor) -> Way:
    """Each picture has a place of its own: half of the signs find it, and the other half are tested there."""
    found = []
    for finds in (BIT_OF % 4 < 2, BIT_OF % 4 >= 2):
        there = _moved(waves, key.model * finds, places).mean(dim=0)
        fit = fits(there, key.model, key.client, ~finds)
        found.append(_way("each", torch.tensor(8.0), there, fit))
    surest = min(found, key=lambda way: float(way.log_p))
    everywhere = _moved(waves, key.model, places).mean(dim=0)
    return replace(surest, coefficients=everywhere)


def _moved(waves: Tensor, signs: Tensor, places: Tensor) -> Tensor:
    """(n, 2K) coefficients of (n, 2, K) waves where each fits signs (2K,) best; so many at once as memory is for."""
    parts = zip(torch.split(waves, MOVED), torch.split(places, MOVED), strict=True)
    return torch.cat([best(part, signs, where).moved(part) for part, where in parts])


def _way(name: str, price: Tensor, coefficients: Tensor, fit: Tensor) -> Way:
    log_p = torch.from_numpy(np.asarray(bounds.log_tail(fit.numpy()))) + price.log()
    return Way(name, log_p, fit, coefficients)


def fits(
    coefficients: Tensor, model: Tensor, client: Tensor, tested: Tensor | None = None
) -> Tensor:
    """(...) how well the (..., COUNT) signs ``model`` fit coefficients, those of clients projected out.

    A mark of whatever client lies in a space that the signs ``client`` span. It is taken away, in the
    statistic and in its norm; the model's signs are still independent of what is left. Where ``tested``
    (COUNT,) is given, nothing else counts.
    """
    weights, signs = coefficients.double(), client.double()
    if tested is not None:
        weights, signs = weights * tested, signs * tested
    members = torch.zeros(BITS, dtype=torch.float64).index_add(
        0, BIT_OF, torch.ones(COUNT, dtype=torch.float64) if tested is None else tested.double()
    )
    shares = torch.zeros(*weights.shape[:-1], BITS, dtype=torch.float64)
    shares = shares.index_add(-1, BIT_OF, signs * weights) / members.clamp(min=1)
    rest = weights - signs * shares[..., BIT_OF]
    norm = rest.norm(dim=-1)
    found: Tensor = (rest * model.double()).sum(dim=-1) / norm.clamp(min=1e-9)
    return found


def _resized(images: Tensor, scale: float) -> Iterator[Tensor]:
    """Pictures as they were before somebody resized them by ``scale``, a few at a time."""
    if scale == 1.0:
        yield images
        return
    sides = [max(1, round(side / scale)) for side in images.shape[-2:]]
    for part in torch.split(images, max(1, CHUNK // (sides[0] * sides[1]))):
        yield torch.nn.functional.interpolate(
            part, size=sides, mode="bilinear", antialias=True, align_corners=False
        )
