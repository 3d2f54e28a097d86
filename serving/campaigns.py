"""Finds campaigns: clients who behave as parts of one theft, though none of them may stand out alone."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from scipy.cluster.hierarchy import fcluster, linkage

from detectors.sketch import EMPTY, Sketch
from mantlet.types import State
from serving.folding import ALARMS, CAMPAIGN, Memory, rows_before
from serving.nearness import compare
from serving.pipeline import Pipeline

EXPECTED = 0.01
"""Share of an honest client's rows that may lie close to others': the radius is chosen by it."""
TOLERATED = 0.05
"""Share that is tolerated."""
MOST_ROWS = 2_000_000
"""Sketched rows that are compared; of more, those of the first ranks, which are the same for all clients."""
PRIORS = np.geomspace(1e-6, 0.5, 20)
"""Shares of thieves among the clients that the joint evidence is averaged over."""
WAVES = 64
"""Random waves of an embedding."""
UNLIKE = 0.04
"""Squared distance of mean embeddings from which groups of clients are campaigns of their own."""
MOST_GROUPED = 3_000
"""Clients that are told apart into campaigns; beyond that all are one."""


class Search(BaseModel):
    """How campaigns of many accounts are looked for, in the background."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every_s: PositiveFloat | None = 60.0
    """Seconds between two searches; ``null`` never searches."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 1e-4
    """Of how many models with honest clients only at most one ever sees a campaign: 1e-4 is ten thousand."""
    min_members: Annotated[int, Field(ge=2, le=1000)] = 5
    """Fewer clients are no campaign."""
    false_members: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    """Share of honest clients that is accepted among the members of a campaign, in the mean."""


@dataclass(frozen=True, slots=True)
class Campaign:
    """Clients who steal together. ``number`` stays when it grows; ``new`` members are not marked yet.

    ``suspicion`` in [0, 1] is that of all clients of the model together, 1 is the ``alarm``.
    ``linked`` is the share of the members' sketched rows that lie close to other clients' rows.
    """

    number: int
    members: tuple[str, ...]
    new: tuple[str, ...]
    rows: int
    suspicion: float
    alarm: bool
    linked: float


@dataclass(frozen=True, slots=True)
class Crowd:
    """What is known of n clients, and of N sketched rows: whose, how far from benign rows, the code.

    ``worth`` (n,) is the evidence of each client's own scores, an e-value.
    """

    clients: Sequence[str]
    worth: np.ndarray
    rows: np.ndarray
    marked: np.ndarray
    owner: np.ndarray
    scale: np.ndarray
    code: np.ndarray


def gather(
    remembered: Iterable[tuple[str, Memory]],
    pipeline: Pipeline,
    *,
    most_rows: int = MOST_ROWS,
    pause: Callable[[], None] = lambda: None,
) -> Crowd:
    """Read the memories of clients, one at a time; ``pause`` is called after each."""
    sketch = _sketch(pipeline)
    about: dict[str, tuple[float, int, int]] = {}
    kept = _Kept(most_rows)
    for client, memory in remembered:
        mark = memory.get(ALARMS, {}).get(CAMPAIGN, (0, 0, 0))
        if sketch is not None and sketch.name in memory and sketch.fits(memory[sketch.name]):
            kept.add(len(about), memory[sketch.name])
        about[client] = pipeline.fold.worth(memory), rows_before(memory), int(mark[2])
        pause()
    table = np.array(list(about.values()), dtype=np.float64).reshape(-1, 3)
    return Crowd(
        tuple(about),
        table[:, 0],
        table[:, 1].astype(np.int64),
        table[:, 2].astype(np.int64),
        *kept.arrays(),
    )


class _Kept:
    """Sketched rows, a bounded number: when they are too many, the higher half of the ranks goes."""

    def __init__(self, most: int) -> None:
        self._most, self._count, self._below = most, 0, int(EMPTY)
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(self, owner: int, state: State) -> None:
        """Take one client's rows."""
        rank = state["rank"]
        some = rank < self._below
        part = (
            np.full(int(some.sum()), owner),
            rank[some],
            state["scale"][some],
            state["code"][some],
        )
        self._parts.append(part)
        self._count += len(part[0])
        if self._count > self._most:
            joined = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
            self._below = int(np.median(joined[1]))
            some = joined[1] < self._below
            self._parts = [tuple(column[some] for column in joined)]
            self._count = int(some.sum())

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Owner (N,), scale (N,) and code (N, k) of all rows."""
        if not self._parts:
            return np.zeros(0, np.int64), np.zeros(0, np.float16), np.zeros((0, 1), np.float16)
        owner, _, scale, code = (
            np.concatenate(column) for column in zip(*self._parts, strict=True)
        )
        return owner, scale, code


def marked(memory: Memory, *, number: int, at: float) -> Memory:
    """A member's memory with the mark of its campaign; one that is there stays."""
    mark = np.array([rows_before(memory), at, number])
    return {**memory, ALARMS: {CAMPAIGN: mark, **memory.get(ALARMS, {})}}


def find(
    crowd: Crowd,
    pipeline: Pipeline,
    search: Search,
    *,
    looks: int,
    pause: Callable[[], None] = lambda: None,
) -> list[Campaign]:
    """The campaigns in a crowd, largest first; ``looks`` counts how often it was looked at, from 1.

    Two kinds of e-values speak about a client: its worth, of its own scores, and how many of its rows
    lie closer to other clients' rows than honest rows do. The alarm asks whether at least
    ``min_members`` clients are no honest ones, at ``alpha`` over all looks: by the worth of all together
    but the ``min_members - 1`` strongest, mixed over shares of thieves (no client is selected; a look
    costs nothing), or by nearness (e-BH, shared by all looks). Members are those whom
    e-BH then names at ``false_members`` (Wang and Ramdas, 2022); like ones are one campaign.
    """
    if len(crowd.clients) < search.min_members:
        return []
    close, near = _nearness(crowd, pipeline, pause)
    near = near * _share_of(looks)
    suspicion = _suspicion(crowd.worth, near, search)
    members = _discovered((crowd.worth + near) / 2, search.false_members)
    groups = [g for g in _alike(crowd, members) if len(g) >= search.min_members]
    return [
        Campaign(
            number,
            tuple(crowd.clients[i] for i in group),
            tuple(crowd.clients[i] for i in group if not crowd.marked[i]),
            int(crowd.rows[group].sum()),
            suspicion,
            suspicion >= 1.0,
            float(np.nan_to_num(close[group]).mean()),
        )
        for number, group in _numbered(crowd, groups)
    ]


def _suspicion(worth: np.ndarray, near: np.ndarray, search: Search) -> float:
    """Of (n,) e-values of both kinds, how near the stronger one comes to an alarm, in [0, 1]."""
    together = _joint(worth, search.min_members)
    strongest = np.sort(near)[::-1] * np.arange(1, len(near) + 1) / len(near)
    nearest = math.log(max(float(strongest[search.min_members - 1 :].max()), 1e-300))
    enough = math.log(2 / search.alpha)  # half of alpha for each kind of evidence
    return min(max(together, nearest, 0.0) / enough, 1.0)


def _nearness(
    crowd: Crowd, pipeline: Pipeline, pause: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) share of each client's rows that lie close to others', and (n,) the e-value of that.

    Near-duplicates of a client's own rows count once. Among N honest rows a share `EXPECTED` has so near
    a neighbour by the tail that the calibration found; the e-value tests a mean of `TOLERATED`, by bets.
    """
    count, total, sketch = len(crowd.clients), len(crowd.owner), _sketch(pipeline)
    if sketch is None or not total:
        return np.full(count, np.nan), np.zeros(count)
    linked, repeated = compare(
        crowd.code, crowd.scale, crowd.owner, sketch.radius(EXPECTED / total), pause
    )
    own = np.bincount(crowd.owner[~repeated], minlength=count)
    hits = np.bincount(crowd.owner[~repeated & linked], minlength=count)
    bets = 0.98 * np.geomspace(1 / 40, 1, 16)
    won, lost = np.log1p(bets * (1 / TOLERATED - 1)), np.log1p(-bets)
    grown = hits[:, None] * won + (own - hits)[:, None] * lost  # (n, 16)
    with np.errstate(invalid="ignore"):
        return hits / own, np.exp(np.minimum(grown, 140)).mean(axis=1)


def _share_of(look: int) -> float:
    """Weight of a look, from 1; those of all looks sum to 1. Looks 2^j to 2^(j+1) have 1/((j+1)(j+2))."""
    octave = look.bit_length() - 1
    return 1.0 / float(2**octave * (octave + 1) * (octave + 2))


def _joint(worth: np.ndarray, min_members: int) -> float:
    """Logarithm of the evidence that ``min_members`` clients or more are no honest ones."""
    rest = np.sort(worth)[: len(worth) - min_members + 1]
    products = np.array([np.log1p(p * (rest - 1)).sum() for p in PRIORS])
    return float(products.max() + np.log(np.exp(products - products.max()).mean()))


def _discovered(values: np.ndarray, share: float) -> np.ndarray:
    """Indices of the clients whom e-BH names: at most a ``share`` of them are honest, in the mean."""
    order = np.argsort(-values, kind="stable")
    ranks = np.arange(1, len(values) + 1)
    named = (values[order] * ranks >= len(values) / share).nonzero()[0]
    return np.sort(order[: named[-1] + 1]) if len(named) else np.zeros(0, np.int64)


def _alike(crowd: Crowd, members: np.ndarray) -> list[np.ndarray]:
    """Members in groups of those whose rows are alike, the largest first.

    The squared distance of mean embeddings is that of the kernel two-sample test (Gretton et al., 2012),
    with random waves for the kernel; groups are joined by their mean distance.
    """
    rows = np.bincount(crowd.owner, minlength=len(crowd.clients))[members]
    told, silent = members[rows > 1], members[rows <= 1]
    if not 2 <= len(told) <= MOST_GROUPED:
        return [members] if len(members) else []
    embedded, spread = _embeddings(crowd, told)
    square = ((embedded**2).sum(1)[:, None] + (embedded**2).sum(1)) - 2 * embedded @ embedded.T
    square = np.maximum(square - spread[:, None] - spread, 0.0)
    tree = linkage(square[np.triu_indices(len(told), 1)], "average")
    label = fcluster(tree, UNLIKE, "distance")
    groups = sorted((told[label == one] for one in set(label.tolist())), key=lambda g: -len(g))
    return [np.concatenate([groups[0], silent]), *groups[1:]]


def _embeddings(crowd: Crowd, told: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m, waves) mean embedding of each client's rows, and (m,) the square of its standard error."""
    rng = np.random.default_rng(0)
    place = np.full(len(crowd.clients), -1)
    place[told] = np.arange(len(told))
    some = place[crowd.owner] >= 0
    owner, code = place[crowd.owner[some]], crowd.code[some].astype(np.float32)
    width = max(float(np.median(crowd.scale[some].astype(np.float32))), 1e-6) * 2
    waves = rng.standard_normal((code.shape[1], WAVES)) / width
    phases = rng.uniform(0, 2 * np.pi, WAVES)
    shown = np.sqrt(2 / WAVES) * np.cos(code @ waves + phases)  # (N', waves)
    rows = np.bincount(owner, minlength=len(told))
    mean = np.zeros((len(told), WAVES))
    np.add.at(mean, owner, shown)
    mean /= rows[:, None]
    square = np.bincount(owner, weights=(shown**2).sum(axis=1), minlength=len(told)) / rows
    return mean, (square - (mean**2).sum(axis=1)) / (rows - 1)


def _numbered(crowd: Crowd, groups: Iterable[np.ndarray]) -> Iterable[tuple[int, np.ndarray]]:
    """Each group with its number: what most of its members have, or one made of its first member's id.

    Whoever looks at the same crowd gives the same numbers.
    """
    taken: set[int] = set()
    for group in groups:
        marks = Counter(int(mark) for mark in crowd.marked[group] if mark)
        known = [number for number, _ in marks.most_common() if number not in taken]
        first = min(crowd.clients[i] for i in group)
        fresh = int.from_bytes(hashlib.sha256(first.encode()).digest()[:5])
        number = known[0] if known else fresh
        taken.add(number)
        yield number, group


def _sketch(pipeline: Pipeline) -> Sketch | None:
    """The detector that keeps sketches, where it is calibrated."""
    return next((d for d in pipeline.detectors if isinstance(d, Sketch) and d.enforces), None)
