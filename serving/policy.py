"""The policy: from what the detectors say of a row's client to the level at which the row is treated."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import limits
import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from mantlet.registry import did_you_mean
from mantlet.types import Query, State
from serving.folding import CAMPAIGN, POLICY, Folded, Memory

ALLOWED = "(allowed)"
"""The tier of clients on the allow list: they are watched, and always treated at the first level."""


def _rate(value: object) -> str:
    try:
        limits.parse_many(str(value))
    except ValueError as error:
        raise ValueError(
            f"'{value}' is no rate; write an amount per time, such as '100/second' or '50000/day'"
        ) from error
    return str(value)


RateText = Annotated[str, BeforeValidator(_rate)]
Some = Annotated[float, Field(gt=0, le=1)]


class Level(BaseModel):
    """What happens to the rows of a client for whom one of the level's conditions holds.

    The conditions are ``suspicion``, ``alarm``, ``campaign``, ``rows``, ``agreement`` and ``signals``; a level
    without any holds for everybody. Of the levels that hold for a row, the last in the list counts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """What the level is called."""
    suspicion: Some | None = None
    """It holds from this suspicion on: the largest of all detectors that enforce."""
    alarm: bool = False
    """It holds once a detector that enforces has alarmed."""
    campaign: bool = False
    """It holds once the client was found to be part of a campaign."""
    rows: PositiveInt | None = None
    """It holds once the client has asked for that many rows in its life."""
    agreement: Annotated[float, Field(gt=0, lt=1)] | None = None
    """It holds once the client has asked for as many rows as give a thief with data of the model's own kind a
    clone that agrees with the model so often: ``rows``, looked up in the curve of the detector ``coverage``."""
    signals: Mapping[str, Some] = {}
    """It holds once the suspicion of a named detector, enforcing or not, has reached its number."""
    tiers: tuple[str, ...] = ()
    """The tiers it is for; all where none is named."""
    hold_s: NonNegativeFloat = 0.0
    """A client that reached the level keeps it for that many seconds after it last did."""
    defenses: tuple[str, ...] = ()
    """Names of the defenses that run."""
    latents: bool = True
    """Whether a client of a generator may send latents of its own, beside asking by seed."""
    explanations: bool = True
    """Whether its rows are explained, where the model explains any."""
    requests: RateText | None = None
    """Requests in a time that a client at this level may make, beside the limits of its tier."""
    delay_s: Annotated[float, Field(ge=0, le=60)] = 0.0
    """Seconds that every answer at this level waits."""
    deny_s: PositiveFloat | None = None
    """Refuse the client for that many seconds."""

    @property
    def unconditional(self) -> bool:
        """Whether it holds for every client of its tiers."""
        return not (self.suspicion or self.alarm) and not self._others

    @property
    def by_detectors(self) -> bool:
        """Whether suspicion and alarm alone decide whether it holds."""
        return bool(self.suspicion or self.alarm) and not self._others

    @cached_property
    def _others(self) -> bool:
        counted = self.rows is not None or self.agreement is not None
        return self.campaign or counted or bool(self.signals)

    @model_validator(mode="after")
    def _counts_rows_once(self) -> "Level":
        if self.rows is not None and self.agreement is not None:
            raise ValueError("'rows' and 'agreement' both size a budget; keep one")
        return self


@dataclass(frozen=True, slots=True)
class Decision:
    """How each row is treated: ``levels`` (B,) and ``denied`` (B,).

    ``wanted`` (B,) are the levels that the policy asks for; in shadow mode, and for clients on the allow
    list, they are not those of the treatment. Defenses that remember write into ``memories``.
    """

    levels: np.ndarray
    wanted: np.ndarray
    denied: np.ndarray
    memories: dict[str, Memory]


@dataclass(frozen=True)
class Policy:
    """An ordered list of levels. In ``shadow`` mode it decides and remembers, and changes no answer."""

    levels: Sequence[Level]
    shadow: bool = False

    @cached_property
    def _hold_s(self) -> np.ndarray:
        """(L,) seconds."""
        return np.array([level.hold_s for level in self.levels])

    @cached_property
    def _deny_s(self) -> np.ndarray:
        """(L,) seconds; 0 where nobody is denied."""
        return np.array([level.deny_s or 0.0 for level in self.levels])

    def decide(self, query: Query, folded: Folded, enforcing: Iterable[str]) -> Decision:
        """The level of every row. The suspicion that counts is the largest of the signals ``enforcing``."""
        holding = self._holding(query, folded, enforcing)  # (B, L)
        wanted = (holding * np.arange(len(self.levels))).max(axis=1)
        memories: dict[str, Memory] = dict(folded.memories)
        if not holding.any() and not any(POLICY in memory for memory in memories.values()):
            # nearly always: all are honest and always were
            return Decision(wanted, wanted, np.zeros(len(wanted), dtype=bool), memories)
        for client, rows in folded.rows_of.items():
            before = memories[client].get(POLICY, {})
            if before or wanted[rows].any():
                wanted[rows], after = self._step(before, wanted[rows], holding[rows], query.at)
                memories[client] = {**memories[client], POLICY: after}
        levels = np.zeros_like(wanted) if self.shadow else wanted.copy()
        allowed = [tier == ALLOWED for tier in query.tiers] if ALLOWED in query.tiers else []
        levels[allowed] = 0
        denied = np.zeros(len(levels), dtype=bool)
        if not self.shadow:
            for client, rows in folded.rows_of.items():
                denied[rows] = self._refused(memories, client, levels[rows], query)
        denied[allowed] = False
        return Decision(levels, wanted, denied, memories)

    def _holding(self, query: Query, folded: Folded, enforcing: Iterable[str]) -> np.ndarray:
        """(B, L) the levels one of whose conditions holds; the first holds for everybody."""
        count = len(query.clients)
        holding = np.zeros((count, len(self.levels)), dtype=bool)
        if len(self.levels) == 1:
            return holding
        suspicion, alarm = folded.signals.most(enforcing)
        top, some = np.float32(suspicion.max()), bool(alarm.any())
        for index, level in enumerate(self.levels[1:], 1):  # the first holds for everybody
            least = np.float32(level.suspicion or 2)  # signals are single: 0.7 is 0.7
            if level.by_detectors and least > top and not (level.alarm and some):
                continue
            holds = np.full(count, level.unconditional)
            if level.suspicion:
                holds |= suspicion >= least
            if level.alarm:
                holds |= alarm
            if level.campaign and CAMPAIGN in folded.signals:
                holds |= folded.signals[CAMPAIGN].alarm.numpy()
            if level.rows is not None:
                holds |= folded.rows >= level.rows
            for name, share in level.signals.items():
                holds |= folded.signals[name].suspicion.numpy() >= np.float32(share)
            if level.tiers:
                holds &= np.isin(query.tiers or ["default"] * count, level.tiers)
            holding[:, index] = holds
        return holding

    def _step(
        self, before: State, wanted: np.ndarray, holding: np.ndarray, at: float
    ) -> tuple[np.ndarray, State]:
        """(n,) levels of one client's rows, and what is kept of them.

        What was set by hand counts; otherwise the highest level that holds, or was reached and is kept.
        """
        by_hand = self.index(override(before))
        if by_hand is not None:
            return np.full_like(wanted, by_hand), {**before, "level": np.array([by_hand])}
        if not self._hold_s.any():
            return wanted, {**before, "level": wanted[-1:].copy()}
        never = np.zeros(len(self.levels))
        until = before.get("until", never)  # (L,) when each level is no longer kept
        until = until if len(until) == len(never) else never
        rank = np.arange(len(never))
        reached = holding & (self._hold_s > 0)  # (n, L)
        kept = np.maximum.accumulate((reached * rank).max(axis=1))
        levels = np.maximum(wanted, np.maximum(kept, (rank * (at < until)).max()))
        after = {**before, "level": levels[-1:].copy()}
        if reached.any():
            longer = np.maximum(until, at + self._hold_s)
            after["until"] = np.where(reached.any(axis=0), longer, until)
        return levels, after

    def _refused(
        self, memories: dict[str, Memory], client: str, levels: np.ndarray, query: Query
    ) -> np.ndarray | bool:
        """(n,) which of one client's rows are refused: from the first whose level denies, until it ends."""
        ends = end_of_refusal(memories[client])
        deny_s = float(self._deny_s[levels].max())
        refused = ends > query.at
        if not deny_s:
            return refused
        state = {**memories[client].get(POLICY, {})}
        state["denied_until"] = np.array([max(ends, query.at + deny_s)])
        memories[client] = {**memories[client], POLICY: state}
        rows: np.ndarray = np.maximum.accumulate(self._deny_s[levels] > 0) | refused
        return rows

    def always(self, tier: str) -> int:
        """The place of the last level that holds for whoever is of a tier, before it has asked for a row."""
        levels = enumerate(self.levels)
        return max((i for i, one in levels if one.unconditional and tier in one.tiers), default=0)

    def index(self, name: str) -> int | None:
        """The place of a level in the list; none for a name that it does not have."""
        return next((i for i, level in enumerate(self.levels) if level.name == name), None)


def end_of_refusal(memory: Memory) -> float:
    """Until when a client is refused, in seconds; 0 for one that never was."""
    state: State = memory.get(POLICY, {})
    return float(state["denied_until"][0]) if "denied_until" in state else 0.0


def override(state: State) -> str:
    """The name of the level that was set by hand; empty for none."""
    return state["override"].tobytes().decode() if "override" in state else ""


def check_levels(
    levels: Sequence[Level], defenses: Sequence[str], detectors: Sequence[str]
) -> None:
    """Raise `ValueError` for levels that name what is not there, never hold, or leave somebody out."""
    names = [level.name for level in levels]
    for index, level in enumerate(levels):
        if names.index(level.name) != index:
            raise ValueError(f"policy level '{level.name}' is there twice; rename one")
        for name in level.defenses:
            if name not in defenses:
                hint = did_you_mean(name, defenses) if defenses else "add it there"
                raise ValueError(
                    f"policy level '{level.name}' asks for defense '{name}', which is not in"
                    f" 'defenses'; {hint}"
                )
        for name in level.signals:
            if name not in detectors:
                hint = did_you_mean(name, detectors) if detectors else "add it there"
                raise ValueError(
                    f"policy level '{level.name}' listens to detector '{name}', which is not in"
                    f" 'detectors'; {hint}"
                )
        hidden = next((later for later in levels[index + 1 :] if _hides(later, level)), None)
        if hidden is not None:
            raise ValueError(
                f"policy level '{level.name}' can never count: '{hidden.name}', which comes later, holds"
                " whenever it does; give each its own conditions, in rising order"
            )
    if levels and (levels[0].tiers or not levels[0].unconditional):
        raise ValueError(
            f"the first policy level '{levels[0].name}' must hold for everybody: no condition, no tiers"
        )
    if levels and (levels[0].deny_s or levels[0].delay_s):
        raise ValueError(
            f"the first policy level '{levels[0].name}' denies or delays everybody, those on the allow"
            " list too; put that at a later level, or in tiers"
        )


def _hides(later: Level, level: Level) -> bool:
    """Whether ``later`` holds in every case in which ``level`` does."""
    if later.tiers and not (level.tiers and set(level.tiers) <= set(later.tiers)):
        return False
    if later.unconditional:
        return True
    if level.unconditional:
        return False
    # suspicion is 1 at an alarm and only there, so a suspicion holds whenever an alarm does
    by_suspicion = later.suspicion is not None and (
        level.suspicion is None or later.suspicion <= level.suspicion
    )
    return (
        (
            by_suspicion
            or (later.alarm and (level.suspicion is None or level.suspicion >= 1))
            or not (level.suspicion or level.alarm)
        )
        and (later.campaign or not level.campaign)
        and (level.rows is None or (later.rows is not None and later.rows <= level.rows))
        and (
            level.agreement is None
            or (later.agreement is not None and later.agreement <= level.agreement)
        )
        and all(
            name in later.signals and later.signals[name] <= x for name, x in level.signals.items()
        )
    )
