"""What every signal says of every row, as the two arrays that the fold writes; a signal is made when asked for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from mantlet.types import Signal


class Signals(Mapping[str, Signal]):
    """``suspicion`` (S, B) float32 in [0, 1] and ``alarm`` (S, B) bool of S signals, by name.

    Most answers need no signal at all, and two arrays cost less than S signals.

    >>> said = Signals.nothing(["rate"], rows=2)
    >>> said.alarm[0, 1] = True
    >>> said["rate"].alarm.tolist()
    [False, True]
    """

    __slots__ = ("_place", "alarm", "suspicion")

    def __init__(self, place: Mapping[str, int], suspicion: np.ndarray, alarm: np.ndarray) -> None:
        self._place = place
        self.suspicion = suspicion
        self.alarm = alarm

    @classmethod
    def nothing(cls, names: Sequence[str], rows: int) -> "Signals":
        """Signals that say nothing yet."""
        size = (len(names), rows)
        place = {name: index for index, name in enumerate(names)}
        return cls(place, np.zeros(size, np.float32), np.zeros(size, dtype=bool))

    @classmethod
    def told(cls, said: Mapping[str, tuple[Sequence[float], Sequence[bool]]]) -> "Signals":
        """Signals of (B,) suspicions and (B,) alarms each."""
        suspicion = np.array([heard for heard, _ in said.values()], np.float32)
        alarm = np.array([alarmed for _, alarmed in said.values()], dtype=bool)
        return cls({name: index for index, name in enumerate(said)}, suspicion, alarm)

    def __getitem__(self, name: str) -> Signal:
        index = self._place[name]
        suspicion, alarm = self.suspicion[index], self.alarm[index]
        return Signal(torch.from_numpy(suspicion), torch.from_numpy(alarm), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)

    def only(self, names: Iterable[str]) -> "Signals":
        """Those of ``names`` that are there."""
        place = {name: self._place[name] for name in names if name in self._place}
        return Signals(place, self.suspicion, self.alarm)

    def of(self, rows: np.ndarray) -> "Signals":
        """Of the named rows (n,)."""
        return Signals(self._place, self.suspicion[:, rows], self.alarm[:, rows])

    def sparing(self, rows: np.ndarray) -> "Signals":
        """The same, except that nothing speaks against ``rows`` (B,) bool."""
        return Signals(self._place, np.where(rows, 0, self.suspicion), self.alarm & ~rows)

    def most(self, names: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """(B,) the largest suspicion of these signals in each row, and whether one is an alarm; nothing of none."""
        rows = [self._place[name] for name in names]
        alarm: np.ndarray = np.logical_or.reduce(self.alarm[rows], axis=0)
        return self.suspicion[rows].max(axis=0, initial=0), alarm

    def highest(self) -> dict[str, float]:
        """The largest suspicion of any row, by signal."""
        top = self.suspicion.max(axis=1).tolist()
        return {name: top[index] for name, index in self._place.items()}
