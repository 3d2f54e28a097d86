"""The fold: from the scores of rows and what is remembered of their clients to signals and new memories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from detectors.evidence import Evidence
from mantlet.errors import PluginError
from mantlet.noise import row_marks
from mantlet.plugin import Detector, EvidenceDetector, ThresholdDetector
from mantlet.types import Query, State, rows_by_client
from serving import recent, repeats
from serving.signals import Signals

Memory = Mapping[str, State]
"""What is remembered of one client: the state of each detector that keeps one, and those named here."""

EVIDENCE = "evidence"
"""The joint test: ``wealth`` (F, K), ``rows``: how many were seen, and the columns of the wealth, and
``recent`` (2, F + 1): what the last rows scored.
Also the name of the signal that all evidence detectors give together."""
HEARD = "heard"
"""``suspicion`` (S,) of every signal after the last row, in the order of `Fold.names`."""
ALARMS = "alarms"
"""By signal, the row of its alarm and when it was. Alarms are latched here, whatever is reconfigured."""
CAMPAIGN = "campaign"
"""The alarm of a client that was found to be part of a campaign: a signal that is given from outside."""
REPEATS = "repeats"
"""What `serving.repeats` remembers."""
POLICY = "policy"
"""What `serving.policy` remembers."""
HISTORY = "history"
"""``points`` (n, 3): when, after how many rows, which suspicion; one for each change by a step."""
STEP = 0.05
"""A step of suspicion; smaller changes are not told."""
POINTS = 64
"""Points of the history that are kept."""
ANSWERED = "answered by "
"""Before the name of a defense: what it remembers. No detector's name may begin so."""
TAKEN = (EVIDENCE, REPEATS, HEARD, ALARMS, CAMPAIGN, POLICY, HISTORY)
"""Names that no detector may have."""

Scores = Mapping[str, np.ndarray]
"""Every detector's (B, F) scores of a query, float32 or float64."""


@dataclass(frozen=True, slots=True)
class Folded:
    """What is known of each row's client just after that row; ``rows`` (B,) it has asked in its life."""

    rows_of: Mapping[str, Sequence[int]]
    rows: np.ndarray
    signals: Signals
    memories: Mapping[str, dict[str, State]]


class Fold:
    """Folds the scores of a query's rows into the memories of its clients.

    ``alpha`` bounds the chance that an honest client is ever alarmed by any of the evidence
    detectors. Those without a calibration are not tested; their signals stay silent. With a ``secret``
    rows that a client asked before are shown to none of them.

    ``names`` are the signals, ``enforcing`` those that may change how a client is treated, ``progress``
    those that say how far the model is extracted; ``tested`` are the detectors of the joint test.
    """

    def __init__(self, detectors: Sequence[Detector], alpha: float, *, secret: bytes = b"") -> None:
        self._secret = secret
        self._detectors = detectors
        self.tested = [d for d in detectors if isinstance(d, EvidenceDetector) and d.enforces]
        self.evidence = Evidence(tuple(d.width for d in self.tested), alpha)
        # wealth of other detectors, or of a calibration that was made anew, says nothing of these
        about = [(d.name, d.width, d.tolerated("default").tolist()) for d in self.tested]
        self._columns = crc32(repr(about).encode())
        self._holds, self._held = False, np.zeros(sum(d.width for d in self.tested), dtype=bool)
        self._tolerated: dict[str, np.ndarray] = {}
        self.names = (EVIDENCE, *(d.name for d in detectors))
        self._tested = [
            self.names.index(name) for name in (EVIDENCE, *(d.name for d in self.tested))
        ]
        self._judges = [
            (self.names.index(d.name), d) for d in detectors if isinstance(d, ThresholdDetector)
        ]
        judges = [d for _, d in self._judges]
        enforcing = tuple(d.name for d in judges if d.enforces)
        self.enforcing = (EVIDENCE, *enforcing) if self.tested else enforcing
        self.progress = tuple(d.name for d in judges if d.measures_progress)
        self._counting = [self.names.index(name) for name in self.enforcing]

    def run(self, query: Query, scores: Scores, memories: Mapping[str, Memory]) -> Folded:
        """Signals of every row, and the memories after; nothing of ``memories`` is written to."""
        rows_of = rows_by_client(query.clients)
        after: dict[str, dict[str, State]] = {c: dict(memories.get(c, {})) for c in rows_of}
        before = [rows_before(memory) for memory in after.values()]  # (N,)
        rows = np.empty(len(query.clients), dtype=np.int64)
        for seen, own in zip(before, rows_of.values(), strict=True):
            rows[_all(own, len(rows))] = range(seen + 1, seen + 1 + len(own))
        marked = any(CAMPAIGN in memory.get(ALARMS, {}) for memory in after.values())
        said = Signals.nothing((*self.names, CAMPAIGN) if marked else self.names, len(rows))
        folded = Folded(rows_of, rows, said, after)
        self._test(query, scores, folded, before, said)
        for index, detector in self._judges:
            self._judge(detector, scores, query, folded, said, index)
        _latch(said, folded, query.at)
        self._write(said, folded, query.at)
        return folded

    def _write(self, said: Signals, folded: Folded, at: float) -> None:
        """Remember the suspicion after each client's last row, and its history where it moved."""
        last = [own[-1] for own in folded.rows_of.values()]
        heard = said.suspicion[: len(self.names), last]  # (S, N)
        top = heard[self._counting].max(axis=0) if self._counting else np.zeros(len(last))
        folds = zip(folded.memories.values(), heard.T, top.tolist(), strict=True)
        for memory, suspicion, highest in folds:
            memory[HEARD] = {"suspicion": suspicion.copy()}  # not the whole batch
            if highest >= STEP or HISTORY in memory:
                _write_history(memory, highest, at)

    def _test(
        self, query: Query, scores: Scores, folded: Folded, before: Sequence[int], said: Signals
    ) -> None:
        """The joint test of all evidence detectors: what it says, and each one's part in it."""
        wealth, late = np.zeros((len(before), 0, 0)), np.zeros((len(before), 2, 1))
        if self.tested:
            columns = self._scored(query, scores, folded)
            bounds, rows_of = self._bounds(query.tiers), list(folded.rows_of.values())
            late = np.array([self._recent(memory) for memory in folded.memories.values()])
            late = recent.fold(late, before, rows_of, columns / bounds, query.at)
            earlier = np.array([self._wealth(memory) for memory in folded.memories.values()])
            if self._holds:
                columns, earlier[:, self._held] = np.where(self._held, np.nan, columns), 0.0
            wealth, trail = self.evidence.fold(earlier, before, rows_of, columns, bounds)
            if trail.max() > 1.0:  # else, and that is nearly always, nothing is suspicious
                level = self.evidence.suspicion(trail).T.astype(np.float32)  # (1 + D, B)
                said.suspicion[self._tested], said.alarm[self._tested] = level, level >= 1.0
        counts = zip(before, folded.rows_of.values(), strict=True)
        folds = zip(counts, folded.memories.values(), wealth, late, strict=True)
        for (asked, own), memory, kept, lately in folds:
            seen = np.array([asked + len(own), self._columns])
            # copies: not the whole batch
            memory[EVIDENCE] = {"wealth": kept.copy(), "rows": seen, "recent": lately.copy()}

    def _scored(self, query: Query, scores: Scores, folded: Folded) -> np.ndarray:
        """(B, F) scores in [0, 1], or NaN, of all evidence detectors."""
        new = self._new(query, folded)
        watched = [self._watch(detector, scores, query, folded, new) for detector in self.tested]
        columns = watched[0] if len(watched) == 1 else np.concatenate(watched, axis=1)
        outside = (columns < 0) | (columns > 1)
        if outside.any():
            whose = np.repeat(range(len(self.tested)), [d.width for d in self.tested])
            detector = self.tested[whose[outside.any(axis=0).argmax()]]
            raise _plugin_error(detector, "gave a score outside [0, 1]")
        return columns

    def _wealth(self, memory: Memory) -> np.ndarray:
        """(F, K) so far; none when other detectors left it. The count of rows stays: so does the bound."""
        return memory[EVIDENCE]["wealth"] if self._ours(memory) else self.evidence.initial()

    def _recent(self, memory: Memory) -> np.ndarray:
        """(2, F + 1) as `serving.recent` keeps it."""
        if self._ours(memory) and "recent" in memory[EVIDENCE]:
            return memory[EVIDENCE]["recent"]
        return recent.initial(len(self._held))

    def _ours(self, memory: Memory) -> bool:
        """Whether its evidence is of the same scores and the same bounds as ours."""
        return EVIDENCE in memory and int(memory[EVIDENCE]["rows"][1]) == self._columns

    @property
    def columns(self) -> int:
        """A number by which evidence of the same scores and the same bounds is known."""
        return self._columns

    @property
    def held(self) -> np.ndarray:
        """(F,) bool: the scores that accuse nobody for now."""
        return self._held

    def hold(self, columns: np.ndarray) -> None:
        """Let (F,) scores abstain from now on, and void what they said of clients who ask meanwhile."""
        self._held = np.array(columns, dtype=bool)
        self._holds = bool(self._held.any())

    def lately(self, memory: Memory) -> tuple[np.ndarray, float]:
        """(F,) mean scores of a client's last rows as shares of what is tolerated; when the last one came."""
        late = self._recent(memory)
        return recent.mean(late, rows_before(memory)), float(late[1, -1])

    def worth(self, memory: Memory) -> float:
        """The evidence against a client so far: an e-value, 1 for one that never asked."""
        if not self.tested:
            return 1.0
        return self.evidence.worth(self._wealth(memory), rows_before(memory))

    def _bounds(self, tiers: Sequence[str]) -> np.ndarray:
        """(F,), or (B, F) for rows of several tiers: the mean scores that honest clients may have."""
        for tier in {*tiers, "default"} - self._tolerated.keys():
            self._tolerated[tier] = np.concatenate([d.tolerated(tier) for d in self.tested])
        if len(set(tiers)) > 1:
            return np.stack([self._tolerated[tier] for tier in tiers])
        return self._tolerated[tiers[0] if tiers else "default"]

    def _new(self, query: Query, folded: Folded) -> Mapping[str, Sequence[int]]:
        """The rows of each client that it did not ask before."""
        if not self._secret:
            return folded.rows_of
        marks, new = row_marks(self._secret, query.inputs), {}
        for client, rows in folded.rows_of.items():
            memory = folded.memories[client]
            memory[REPEATS], again = repeats.fold(memory.get(REPEATS), marks[rows])
            kept = (~again).nonzero()[0].tolist() if again.any() else range(len(rows))
            new[client] = [rows[i] for i in kept] if len(kept) < len(rows) else rows
        return new

    def _watch(
        self,
        detector: EvidenceDetector,
        scores: Scores,
        query: Query,
        folded: Folded,
        new: Mapping[str, Sequence[int]],
    ) -> np.ndarray:
        """(B, G) scores in [0, 1], or NaN, of every row."""
        own = scores[detector.name]
        if type(detector).watch is not EvidenceDetector.watch:
            watched = np.full((len(own), detector.width), np.nan)
            for clients, rows in _turns(new):
                states = [_state(detector, folded.memories[client]) for client in clients]
                try:
                    after, given = _watched(detector, states, _of(own, rows), query.at)
                    kept, shape = dict(zip(clients, after, strict=True)), np.shape(given)
                except Exception as error:  # whatever goes wrong in a plug-in is the same failure
                    raise _plugin_error(detector, f"raised {type(error).__name__}") from error
                if shape != (len(rows), detector.width):
                    raise _plugin_error(detector, _wanted_width(detector, shape))
                watched[_all(rows, len(own))] = given
                for client, state in kept.items():
                    folded.memories[client][detector.name] = state
            own = watched
        elif new is not folded.rows_of:
            own = own.copy()
            own[sorted({*range(len(own))}.difference(*new.values()))] = np.nan
        if own.shape != (len(folded.rows), detector.width):
            raise _plugin_error(detector, _wanted_width(detector, own.shape))
        return own

    def _judge(
        self,
        detector: ThresholdDetector,
        scores: Scores,
        query: Query,
        folded: Folded,
        said: Signals,
        index: int,
    ) -> None:
        own, suspicion, alarm = scores[detector.name], said.suspicion[index], said.alarm[index]
        for clients, rows in _turns(folded.rows_of):
            states = [_state(detector, folded.memories[client]) for client in clients]
            try:
                after, suspected, alarmed = _updated(detector, states, _of(own, rows), query.at)
                kept = dict(zip(clients, after, strict=True))
                fitting = suspected.shape == alarmed.shape == (len(rows),)
            except Exception as error:  # as above
                raise _plugin_error(detector, f"raised {type(error).__name__}") from error
            if not fitting:
                gave = f"gave {suspected.shape} suspicions, {alarmed.shape} alarms"
                raise _plugin_error(detector, f"{gave} for {len(rows)} rows")
            whole = _all(rows, len(own))
            suspicion[whole], alarm[whole] = suspected, alarmed
            for client, state in kept.items():
                folded.memories[client][detector.name] = state
        if not (suspicion.min() >= 0 and suspicion.max() <= 1):  # a NaN is neither
            raise _plugin_error(detector, "returned a suspicion outside [0, 1]")


def rows_before(memory: Memory) -> int:
    """How many rows a client has asked so far."""
    return int(memory[EVIDENCE]["rows"][0]) if EVIDENCE in memory else 0


def _write_history(memory: dict[str, State], suspicion: float, at: float) -> None:
    """Remember a suspicion that is another step than the last; where there are many, every second goes."""
    points = memory[HISTORY]["points"] if HISTORY in memory else np.zeros((0, 3))
    last = points[-1, 2] if len(points) else 0.0
    if int(suspicion / STEP) == int(last / STEP):
        return
    if len(points) >= POINTS:
        points = points[::2]
    now = np.array([[at, rows_before(memory), suspicion]])
    memory[HISTORY] = {"points": np.concatenate([points, now])}


def _latch(said: Signals, folded: Folded, at: float) -> None:
    """An alarm once given stays, and at suspicion 1; new ones are remembered."""
    alarmed = [c for c, memory in folded.memories.items() if ALARMS in memory]
    if not alarmed and not said.alarm.any():  # nearly always
        return
    for name, suspicion, alarm in zip(said, said.suspicion, said.alarm, strict=True):
        for client in folded.rows_of if alarm.any() else alarmed:
            rows, memory = folded.rows_of[client], folded.memories[client]
            alarms = memory.get(ALARMS, {})
            if name in alarms:
                alarm[rows], suspicion[rows] = True, 1.0
            elif alarm[rows].any():
                first = int(alarm[rows].argmax())
                alarm[rows[first:]], suspicion[rows[first:]] = True, 1.0
                memory[ALARMS] = {**alarms, name: np.array([folded.rows[rows[first]], at])}


def _turns(
    rows_of: Mapping[str, Sequence[int]],
) -> list[tuple[Sequence[str], Sequence[int]]]:
    """Clients and rows that are folded at once: all clients of one row together, the others by themselves."""
    ones = [client for client, rows in rows_of.items() if len(rows) == 1]
    turns: list[tuple[Sequence[str], Sequence[int]]] = [
        ([client], rows) for client, rows in rows_of.items() if len(rows) > 1
    ]
    return [(ones, [rows_of[client][0] for client in ones]), *turns] if ones else turns


def _watched(
    detector: EvidenceDetector, states: Sequence[State], rows: np.ndarray, at: float
) -> tuple[Sequence[State], np.ndarray]:
    if len(states) > 1:
        return detector.watch_each(states, rows, at)
    state, given = detector.watch(states[0], rows, at)
    return [state], given


def _updated(
    detector: ThresholdDetector, states: Sequence[State], rows: np.ndarray, at: float
) -> tuple[Sequence[State], np.ndarray, np.ndarray]:
    if len(states) > 1:
        return detector.update_each(states, rows, at)
    state, suspicion, alarm = detector.update(states[0], rows, at)
    return [state], suspicion, alarm


def _of(scores: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """The scores of some rows, in order; of all of them without a copy."""
    return scores[_all(rows, len(scores))]


def _all(rows: Sequence[int], count: int) -> Sequence[int] | slice:
    """Rows as an index; as a slice, which costs less, where they are all of ``count``."""
    return slice(None) if len(rows) == count else rows


def _state(detector: Detector, memory: Memory) -> State:
    """The detector's own memory of a client; one that other settings left starts anew."""
    state = memory.get(detector.name)
    return state if state is not None and detector.fits(state) else detector.initial()


def _wanted_width(detector: EvidenceDetector, shape: tuple[int, ...]) -> str:
    return f"gave {shape} scores; wanted {detector.width} a row"


def _plugin_error(detector: Detector, what: str) -> PluginError:
    return PluginError(f"detector '{detector.name}' {what}")
