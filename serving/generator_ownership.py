"""Whether a suspect generator learned from the pictures of this service, by their mark (`watermark`)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from defenses.watermark import reading
from defenses.watermark.carriers import MarkKey
from defenses.watermark.defense import Watermark
from defenses.watermark.detection import search
from mantlet.errors import ConfigError
from mantlet.plugin import Setup
from mantlet.types import Task
from serving.ownership import PROVEN, Compared, secret_of_gateway
from serving.settings import Settings, chosen_model
from serving.suspects import PLAIN, Opening, pictures_of

PICTURES = 2_000
"""Looked at by default."""
FEWEST = 16
"""From so many on a p-value is told along the way, doubling."""
GRADES = ((1e-12, "overwhelming"), (PROVEN, "strong"), (1e-3, "weak"))
"""What evidence is called, up to which p-value; above all it is ``none``."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One generator: ``p`` of all its ``pictures``, and ``along``, by the number of its first ones."""

    model: str
    pictures: int
    p: float
    along: Mapping[int, float]

    @property
    def needed(self) -> int | None:
        """The number of pictures from which on it is proven; None where it is not."""
        needed = None
        for count, p in sorted(self.along.items(), reverse=True):
            if p > PROVEN:
                break
            needed = count
        return needed


@dataclass(frozen=True, slots=True)
class Report(Compared[Reading]):
    """What was found of the suspect and of the independent generators."""

    suspect: Reading
    independent: Sequence[Reading]


def marks(settings: Settings, model: str = "") -> bool:
    """Whether the model's pictures leave with a mark."""
    return any(isinstance(d, Watermark) for d in chosen_model(settings, model)[1].defenses)


def key_of(settings: Settings, model: str = "") -> MarkKey:
    """What marks the model's pictures; raises `ConfigError` where nothing does."""
    name, _ = chosen_model(settings, model)
    if not marks(settings, name):
        raise ConfigError(
            f"model '{name}' has no defense 'watermark'; give the config with which its pictures were answered"
        )
    return MarkKey(secret_of_gateway(settings), name)


def verify(
    settings: Settings,
    suspect: str,
    *,
    independent: Sequence[str] = (),
    model: str = "",
    count: int = PICTURES,
    opening: Opening = PLAIN,
) -> Report:
    """Look for a model's mark in ``count`` pictures of a suspect, and of generators that are known to be independent.

    Each is named as `pictures_of` takes it. Raises `ConfigError` where nothing could be said, and what opening and
    asking a model raises.
    """
    key = key_of(settings, model)
    victim = chosen_model(settings, model)[1].victim
    readings = []
    with closing(victim):
        victim.load(Setup(torch.device("cpu"), b""))
        if victim.task is not Task.GENERATE:
            raise ConfigError(
                f"the protected model is there to {victim.task}, and not to generate; of one that translates, give"
                " --queries and a config with defense 'high_band_dither'"
            )
        for name in (suspect, *independent):
            batches = pictures_of(name, count, like=victim, opening=opening)
            readings.append(read(name, batches, key))
    return Report(readings[0], readings[1:])


def read(name: str, batches: Iterable[Tensor], key: MarkKey) -> Reading:
    """What pictures in batches (n, C, H, W) in [0, 1] show of a key; no batch is kept.

    The null hypothesis is that the key was drawn independently of the pictures; `defenses.watermark.detection`
    bounds the p-value under it whatever the pictures are. The one that counts is that of all of them.
    """
    waves = reading.read(batches)
    return along(name, len(waves), lambda count: search(waves.first(count), key).p)


def along(name: str, total: int, p_of: Callable[[int], float]) -> Reading:
    """What ``p_of`` so many first pictures is, doubling from `FEWEST` on, and of all of them."""
    counts = [FEWEST << n for n in range(32) if FEWEST << n < total]
    found = {count: p_of(count) for count in (*counts, total)}
    return Reading(name, total, found[total], found)


def graded(p: float) -> str:
    """What evidence of a p-value is called: ``none``, ``weak``, ``strong`` or ``overwhelming``.

    >>> graded(1e-30), graded(1e-7), graded(1e-4), graded(0.5)
    ('overwhelming', 'strong', 'weak', 'none')
    """
    return next((grade for most, grade in GRADES if p <= most), "none")


def verdict(report: Report) -> Sequence[str]:
    """In plain words, what the report shows and what it does not."""
    first = report.said(
        unsound="An independent generator shows the mark too: this proves nothing. Is it no copy, and are the secret and"
        " the model's name those of the service?",
        found=f"The suspect's pictures carry the mark: one key in {report.keys} or fewer would fit pictures"
        " that were made without it so well.",
        hidden=f"The mark is not shown (p above {PROVEN:g}). That does not clear the suspect: it may have learned from"
        " few pictures, or have washed the mark away.",
        what="generator",
    )
    return (
        first,
        "A mark says that pictures came from this service or from a generator that learned from them, and not who did"
        " it: it can be inherited from somebody else's copy or data set, and planted with the secret. It is one"
        " signal, never sole proof.",
    )
