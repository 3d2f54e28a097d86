"""A mark that networks write and read, under a key: embedding, p-values, and who it names."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from defenses.watermark import bounds
from defenses.watermark.carriers import BITS, MarkKey
from defenses.watermark.detection import SMALLEST, Found
from defenses.watermark.tracing import Suspect, ranked
from mantlet.errors import ConfigError
from mantlet.finite import all_finite
from mantlet.learned_marks import LENGTH, LearnedMark

SHIPPED = Path(__file__).with_name("learned.safetensors")
"""What configs/recipes/mnist-watermark.yaml made."""
SHARED = LENGTH - BITS
"""Signs of a message that are the model's; the others name a client."""
PLACES = 8
"""Places that are tried along each side, at most."""


def message(key: MarkKey, client: str) -> Tensor:
    """(LENGTH,) signs: the model's, and those of a client's bits, which its key flips.

    Who has the networks and not the key reads signs that are fair coins to him.
    """
    return torch.cat([key.model[:SHARED], key.bits(client) * key.client[:BITS]])


def detect(
    networks: LearnedMark,
    images: Tensor | Iterable[Tensor],
    key: MarkKey,
    *,
    whole: tuple[int, int] | None = None,
) -> Found:
    """Look for the model's signs in (n, C, H, W) pictures in [0, 1], or in batches of several sizes.

    ``whole`` is the (height, width) that they had before anybody cropped them; without it they are taken for
    whole. Given the pictures, the statistic is a sum of the key's signs with fixed weights, what the network
    reads: for a key that was drawn independently of the pictures the bound of Chernoff holds whatever the
    network does. Half of the error goes to the pictures as they are, a quarter to all cropped or mirrored
    alike, a quarter to each by itself: half of the signs find its place, the other half are tested there.
    ``coefficients`` of what is found are (LENGTH,) means of what is read.
    """
    read, lies = [], True
    for batch in [images] if isinstance(images, Tensor) else images:
        if len(batch):
            read.append(read_all(networks, batch, whole))
            lies = lies and whole in (None, tuple(batch.shape[-2:]))
    if not read:
        raise ValueError("there are no pictures to look at")
    if len({len(one) for one in read}) > 1:
        raise ConfigError(
            "pictures that were cut to several sizes are not put back together; look at those of one size"
        )
    return judged(torch.cat(read, dim=1), key, lies=lies)


def read_all(networks: LearnedMark, images: Tensor, whole: tuple[int, int] | None = None) -> Tensor:
    """(places, n, LENGTH) in [-1, 1], what is read of each picture at each place; first where it lies.

    Raises `ValueError` for values that are not finite.
    """
    if not all_finite(images):
        raise ValueError("pictures have values that are not finite; values in [0, 1] are read")
    odds = [networks.read(placed) for placed in _placed(images, whole)]
    return torch.tanh(torch.stack(odds) / 2).double()


def judged(read: Tensor, key: MarkKey, *, lies: bool = True) -> Found:
    """`detect` in what was `read_all`; ``lies`` tells whether pictures may lie at the first place, untouched."""
    signs, together = key.model[:SHARED].double(), read.mean(dim=1)
    best = int(_fits(together[:, :SHARED], signs).argmax())
    ways = [
        ("moved", together[best], _log_p(together[best, :SHARED], signs) + math.log(4 * len(read)))
    ]
    if lies:
        ways.append(("untouched", together[0], _log_p(together[0, :SHARED], signs) + math.log(2)))
    if read.shape[1] > 1:
        ways.append(_each(read, signs))
    way, said, log_p = min(ways, key=lambda one: one[2])
    p = min(1.0, max(SMALLEST, math.exp(log_p)))
    return Found(p, float(_fits(said[:SHARED], signs)), read.shape[1], way, 1.0, said)


def trace(found: Found, key: MarkKey, clients: Sequence[str]) -> list[Suspect]:
    """The clients, most likely first, as `tracing.trace` tells them."""
    return ranked(found.coefficients[SHARED:] * key.client[:BITS].double(), key, clients)


def _placed(images: Tensor, whole: tuple[int, int] | None) -> list[Tensor]:
    """The pictures wherever they may have lain in a picture as large as ``whole``, also mirrored."""
    height, width = images.shape[-2:]
    rooms = [max(0, (whole or (height, width))[axis] - (height, width)[axis]) for axis in (0, 1)]
    down, across = (
        np.unique(np.linspace(0, room, min(room + 1, PLACES)).round().astype(int)) for room in rooms
    )
    return [
        functional.pad(turned, (int(x), rooms[1] - int(x), int(y), rooms[0] - int(y)))
        for turned in (images, images.flip(-1))
        for y in down
        for x in across
    ]


def _each(read: Tensor, signs: Tensor) -> tuple[str, Tensor, float]:
    """Each picture at the place that half of the signs find."""
    rows, ways = torch.arange(read.shape[1]), []
    for first in (0, 1):
        finds = torch.arange(SHARED) % 2 == first
        at = (read[..., :SHARED] @ (signs * finds)).argmax(dim=0)
        said = read[at, rows].mean(dim=0)
        ways.append(("each", said, _log_p(said[:SHARED][~finds], signs[~finds]) + math.log(8)))
    return min(ways, key=lambda one: one[2])


def _fits(said: Tensor, signs: Tensor) -> Tensor:
    """(...) how well signs fit what is said of them (..., SHARED), about normal without a mark."""
    found: Tensor = said @ signs / said.norm(dim=-1).clamp(min=1e-9)
    return found


def _log_p(weights: Tensor, signs: Tensor) -> float:
    total = np.array([float(weights @ signs)])
    return float(bounds.log_chernoff(weights.numpy(), total)[0])
