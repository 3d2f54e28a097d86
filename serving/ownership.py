"""What ``mantlet ownership verify`` does: whether a suspect model learned from marked answers (`dawn`)."""

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from defenses.dawn import Dawn, Marks
from mantlet.errors import ConfigError
from mantlet.finite import all_finite
from mantlet.plugin import Setup
from serving import build
from serving.settings import Model, Settings, chosen_model
from serving.victims.base import VictimPlugin
from serving.victims.onnx import OnnxVictim
from serving.victims.torch import TorchVictim
from serving.victims.upstream import UpstreamVictim

PROVEN = 1e-6
"""A p-value of the suspect up to that counts as proof that the mark is there."""
CONTROL = 0.01
"""Every independent model must stay above this p-value, divided by how many there are."""
SMALLEST = 1e-300
"""Smaller p-values are told as this one."""
BATCH = 64
ADDRESS = re.compile(r"(https?://.+)/(v1|v2)/models/([^/:]+)(?::predict|/infer)?/?")


@dataclass(frozen=True, slots=True)
class Openers:
    """How models that are compared are opened: a weight file's architecture and its settings, and the
    headers that go with every request to a served one.
    """

    architecture: str = ""
    settings: Mapping[str, int | float | str | bool] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """One model: of ``marked`` rows it names the marked class on ``named``; ``p`` is the p-value."""

    model: str
    marked: int
    named: int
    p: float


class Judged(Protocol):
    """What was read of one model: its p-value."""

    @property
    def p(self) -> float: ...


J = TypeVar("J", bound=Judged)


class Compared(Generic[J]):
    """What a report of a ``suspect`` and of ``independent`` models shows, whatever was read of them."""

    __slots__ = ()
    suspect: J
    independent: Sequence[J]

    @property
    def sound(self) -> bool:
        """Whether no independent model shows the mark too."""
        return all(one.p > CONTROL / len(self.independent) for one in self.independent)

    @property
    def found(self) -> bool:
        """Whether the suspect shows the mark and no independent model does."""
        return self.sound and self.suspect.p <= PROVEN

    @property
    def keys(self) -> str:
        """Of how many keys one would fit the suspect so well by chance."""
        return f"{1 / self.suspect.p:.0e}" if self.suspect.p else "inf"

    def said(self, *, unsound: str, found: str, hidden: str, what: str = "model") -> str:
        """The sentence that holds of the three, and one more where no independent ``what`` was compared."""
        first = found if self.found else hidden if self.sound else unsound
        alone = f" No independent {what} was compared: add --independent."
        return first if self.independent else first + alone


@dataclass(frozen=True, slots=True)
class Report(Compared[Reading]):
    """What was found of the suspect and of the independent models.

    ``queries`` rows fall in ``cells`` cells of the hash; at ``rate`` the key marks ``marked_cells``.
    """

    queries: int
    rate: float
    cells: int
    marked_cells: int
    suspect: Reading
    independent: Sequence[Reading]


def verify(
    settings: Settings,
    queries: np.ndarray,
    suspect: str,
    *,
    independent: Sequence[str] = (),
    model: str = "",
    openers: Openers = Openers(),
) -> Report:
    """Compare a suspect, and models known to be independent, with the marks on ``queries`` (n, *shape).

    Models are named by a .safetensors or .onnx file, or by the address of a served one. Raises
    `ConfigError` where nothing could be said, and what opening and asking a model raises.
    """
    chosen = chosen_model(settings, model)[1]
    dawn = _dawn(chosen)
    setup = Setup(torch.device("cpu"), secret_of_gateway(settings))
    inputs = torch.from_numpy(queries)
    with closing(chosen.victim) as victim:
        victim.load(setup)
        if inputs.shape[1:] != victim.input.shape:
            raise ConfigError(
                f"the queries have shape {tuple(inputs.shape[1:])}; the model takes"
                f" {victim.input.shape}: give the pictures as they were sent"
            )
        dawn.load(setup)
        marks = dawn.marks(inputs, victim.classes)
        marked = marks.draws < dawn.highest_rate
        if not marked.any():
            raise ConfigError(
                f"none of the {len(inputs)} queries is marked at the rate {dawn.highest_rate:g}: give"
                f" {round(3 / dawn.highest_rate)} different ones or more"
            )
        clean = _classes(victim, inputs)
        readings = []
        for name in (suspect, *independent):
            said = _said(name, victim, inputs, openers, setup)
            readings.append(read(name, marks, clean, said, victim.classes, dawn.highest_rate))
    cells = len(np.unique(marks.cells)), len(np.unique(marks.cells[marked]))
    return Report(len(inputs), dawn.highest_rate, *cells, readings[0], readings[1:])


def _said(
    name: str, victim: VictimPlugin, inputs: Tensor, openers: Openers, setup: Setup
) -> np.ndarray:
    """(n,) classes that a model of that name says."""
    with closing(_open(name, victim, openers)) as other:
        other.load(setup)
        _refuse_others(other, victim, name)
        return _classes(other, inputs)


def verdict(report: Report) -> Sequence[str]:
    """In plain words, what the report shows and what it does not."""
    first = report.said(
        unsound="An independent model shows the mark too: these queries prove nothing. Is it no copy, and"
        " are the victim and its secret those that answered?",
        found=f"The suspect shows the mark: one key in {report.keys} or fewer would fit a model"
        " that knows nothing of the answers so well.",
        hidden=f"The mark is not shown (p above {PROVEN:g}). That does not clear the suspect: it may have"
        " asked other rows, unsuspected, or have washed the mark away.",
    )
    return (
        first,
        "A mark says that a model learned from answers of this service, and not who asked: it can be"
        " inherited from a model or data set of somebody else, and planted with the secret. It is one"
        " signal, never sole proof.",
    )


def read(
    name: str, marks: Marks, clean: np.ndarray, said: np.ndarray, classes: int, rate: float
) -> Reading:
    """What a model that ``said`` (n,) classes shows of the mark on the ``clean`` (n,) ones.

    The null hypothesis is that the model knows nothing of the key: it was made independently of the
    answers given under it. Then, whatever the model and the rows are, only the key is random: each
    cell is marked with probability ``rate``, by one of ``classes`` - 1 turns, independently of other
    cells. The p-value is the exact probability that so many rows or more (``named``) would then be
    marked with the class that the model says; under the null it is at most a with probability at most a.

    >>> marks = Marks(np.arange(4), np.array([0.01, 0.01, 0.5, 0.5]), np.array([1, 2, 1, 1]))
    >>> read("copy", marks, np.zeros(4, int), np.array([1, 2, 0, 0]), 3, 0.1)
    Reading(model='copy', marked=2, named=2, p=0.0025000000000000005)
    """
    turns = (said - clean) % classes
    marked = marks.draws < rate
    named = int((marked & (turns == marks.turns)).sum())
    _, cells = np.unique(marks.cells, return_inverse=True)
    counts = np.zeros((cells.max() + 1, classes), dtype=np.int64)
    np.add.at(counts, (cells, turns), 1)
    p = _at_least(named, counts[:, 1:], rate)
    return Reading(name, int(marked.sum()), named, max(p, SMALLEST))


def _at_least(named: int, counts: np.ndarray, rate: float) -> float:
    """The chance that cells add up to ``named`` or more: a cell gives ``counts`` (cells, turns) of a turn
    drawn uniformly with probability ``rate``, and nothing otherwise. Sums of positive terms only, so
    that the smallest chances are exact.
    """
    chance = np.zeros(named + 1)  # of each sum so far; the last one is "so many or more"
    chance[0] = 1.0
    for row in counts[counts.any(axis=1)]:
        gains, how_many = np.unique(np.minimum(row[row > 0], named), return_counts=True)
        weights = rate * how_many / counts.shape[1]
        after = chance * (1.0 - weights.sum())
        for gain, weight in zip(gains.tolist(), weights.tolist(), strict=True):
            after[gain:] += weight * chance[: named + 1 - gain]
            after[named] += weight * chance[named + 1 - gain :].sum()
        chance = after
    return float(chance[named])


def _dawn(model: Model) -> Dawn:
    found = [defense for defense in model.defenses if isinstance(defense, Dawn)]
    if len(found) != 1 or not found[0].highest_rate:
        raise ConfigError(
            f"the model's defenses have {len(found)} of type 'dawn' with a rate above 0, wanted one; give"
            " the config with which the queries were answered"
        )
    return found[0]


def secret_of_gateway(settings: Settings) -> bytes:
    """The secret with which a gateway answered; one made now would know nothing of earlier answers."""
    path = settings.data_dir / "secret"
    if settings.secret is None and not path.is_file():
        raise ConfigError(
            f"secret file '{path}': no such file; without the secret of the gateway that answered, its"
            " marks are not known: set data_dir or secret"
        )
    return build.secret_of(settings)


class _Served(UpstreamVictim):
    """A served model that may answer labels alone."""

    def _checked(self, answer: np.ndarray, rows: int) -> np.ndarray:
        classes = self.classes
        labels = answer.astype(np.int64) if all_finite(answer) else answer
        if (
            answer.shape == (rows,)
            and ((labels == answer) & (answer >= 0) & (answer < classes)).all()
        ):
            one_hot: np.ndarray = np.eye(classes, dtype=np.float32)[labels]
            return one_hot
        return super()._checked(answer, rows)


def _open(name: str, victim: VictimPlugin, openers: Openers) -> VictimPlugin:
    """A model by its name, not loaded; files are taken to normalise their inputs as the victim does."""
    like: dict[str, Any] = {"name": name, "mean": victim.mean, "std": victim.std}
    address = ADDRESS.fullmatch(name)
    if address:
        url, protocol, served = address.groups()
        asked = {"protocol": protocol, "input_shape": victim.input.shape, "classes": victim.classes}
        return _Served(
            type="upstream", name=name, url=url, model=served, headers=openers.headers, **asked
        )
    if name.endswith(".onnx"):
        return OnnxVictim(type="onnx", weights=Path(name), **like)
    if name.endswith(".safetensors"):
        if not openers.architecture:
            raise ConfigError(f"'{name}' holds weights alone; name their --architecture")
        about = {"architecture": openers.architecture, "settings": dict(openers.settings)}
        return TorchVictim(type="torch", weights=Path(name), engine="torch", **about, **like)
    raise ConfigError(
        f"model '{name}' is neither a .safetensors nor a .onnx file, nor an address like"
        " http://HOST:PORT/v1/models/NAME or http://HOST:PORT/v2/models/NAME"
    )


def _refuse_others(other: VictimPlugin, victim: VictimPlugin, name: str) -> None:
    for what, theirs, ours in (
        ("takes rows of shape", other.input.shape, victim.input.shape),
        ("answers this many classes:", other.classes, victim.classes),
    ):
        if theirs != ours:
            raise ConfigError(
                f"model '{name}' {what} {theirs}, the protected model {ours}: they cannot be compared"
            )


def _classes(model: VictimPlugin, inputs: Tensor) -> np.ndarray:
    """(n,) top classes."""
    answers = [
        model.predict(part).values.argmax(dim=1).numpy() for part in torch.split(inputs, BATCH)
    ]
    return np.concatenate(answers)
