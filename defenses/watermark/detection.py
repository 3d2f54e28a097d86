"""Whether pictures carry a model's mark, as a p-value that holds whatever the pictures are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from defenses.watermark import bounds
from defenses.watermark.carriers import BIT_OF, BITS, MarkKey
from defenses.watermark.reading import Reading, read
from defenses.watermark.registration import Places, allowed, best

SMALLEST = 1e-300
"""Smaller p-values are told as this one."""


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
    images: Tensor | Sequence[Tensor],
    key: MarkKey,
    *,
    whole: tuple[int, int] | None = None,
    scales: Sequence[float] = (),
) -> Found:
    """Look for the model's mark in (n, C, H, W) pictures in [0, 1], or in batches of several sizes.

    No original is needed. ``whole`` is the (height, width) that the pictures had before anybody cropped them,
    if it is known; ``scales`` are factors by which they may have been resized. Both change the number of
    places that are tried, which the p-value pays for.

    Given the pictures, the statistic is a sum of the key's signs with fixed weights. For a key that was drawn
    independently of the pictures the signs are fair coins, so `bounds.log_tail` holds without any
    assumption on the pictures; half of the error goes to the pictures as they are, the rest to all others.
    """
    batches = [images] if isinstance(images, Tensor) else list(images)
    readings = [(1.0, read(batches))]
    readings += [(scale, read(_resized(b, scale) for b in batches)) for scale in scales]
    found = [
        search(reading, key, whole=whole, scale=scale, price=len(readings))
        for scale, reading in readings
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
    """`detect` in what was read; p-values are multiplied by ``price``."""
    if not len(reading):
        raise ValueError("there are no pictures to look at")
    several = len(reading) > 1
    ways = [_untouched(reading, key), _moved(reading, key, whole, 4.0 if several else 2.0)]
    if several:
        ways.append(_each(reading, key, whole))
    best_way = min(ways, key=lambda way: way.log_p)
    p = min(1.0, max(SMALLEST, math.exp(best_way.log_p) * price))
    return Found(p, best_way.fit, len(reading), best_way.name, scale, best_way.coefficients)


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to look: what it found, its price paid, and the coefficients there."""

    name: str
    log_p: float
    fit: float
    coefficients: Tensor


def _untouched(reading: Reading, key: MarkKey) -> _Way:
    """Where the gateway put the mark. Half of the error is for this way."""
    places = Places.untouched(len(reading))
    return _way("untouched", 2.0, places.moved(reading.whitened).mean(dim=0), key)


def _moved(reading: Reading, key: MarkKey, whole: tuple[int, int] | None, price: float) -> _Way:
    """All pictures cropped or mirrored alike: the best of all places, each of which is paid for."""
    places = allowed(reading.sizes, whole).all(dim=0, keepdim=True)
    mean = reading.whitened.mean(dim=0, keepdim=True)
    coefficients = best(mean, key.model, places).moved(mean)[0]
    return _way("moved", price * 2 * int(places.sum()), coefficients, key)


def _each(reading: Reading, key: MarkKey, whole: tuple[int, int] | None) -> _Way:
    """Each picture has a place of its own: half of the signs find it, and the other half are tested there."""
    places = allowed(reading.sizes, whole)
    waves = reading.whitened
    found = []
    for finds in (BIT_OF % 4 < 2, BIT_OF % 4 >= 2):
        there = best(waves, key.model * finds, places).moved(waves).mean(dim=0)
        found.append(_way("each", 8.0, there, key, ~finds))
    surer = min(found, key=lambda way: way.log_p)
    everywhere = best(waves, key.model, places).moved(waves).mean(dim=0)
    return replace(surer, coefficients=everywhere)


def _way(
    name: str, price: float, coefficients: Tensor, key: MarkKey, tested: Tensor | None = None
) -> _Way:
    fit = statistic(coefficients, key, tested)
    log_p = float(bounds.log_tail(fit)) + math.log(price)
    return _Way(name, log_p, fit, coefficients)


def statistic(coefficients: Tensor, key: MarkKey, tested: Tensor | None = None) -> float:
    """How well the model's signs fit (COUNT,) coefficients, those of clients projected out.

    A mark of whatever client lies in a space that the key's other signs span. It is taken away, in the
    statistic and in its norm; the model's signs are still independent of what is left.
    """
    weights = coefficients.double()
    if tested is not None:
        weights = weights * tested
    signs = key.client.double() * (1.0 if tested is None else tested)
    shares = torch.zeros(BITS, dtype=torch.float64).index_add(0, BIT_OF, signs * weights)
    sizes = torch.zeros(BITS, dtype=torch.float64).index_add(0, BIT_OF, signs.square())
    rest = weights - signs * (shares / sizes.clamp(min=1))[BIT_OF]
    norm = float(rest.norm())
    return float(rest @ key.model.double()) / norm if norm > 0 else 0.0


def model_p_value(
    images: Tensor | Sequence[Tensor],
    secret: bytes,
    model: str,
    *,
    whole: tuple[int, int] | None = None,
) -> float:
    """The p-value of `detect`."""
    return detect(images, MarkKey(secret, model), whole=whole).p


def _resized(images: Tensor, scale: float) -> Tensor:
    """Pictures as they were before somebody resized them by ``scale``."""
    sides = [max(1, round(side / scale)) for side in images.shape[-2:]]
    return torch.nn.functional.interpolate(
        images, size=sides, mode="bilinear", antialias=True, align_corners=False
    )
