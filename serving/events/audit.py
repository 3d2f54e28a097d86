"""Whether a log is whole, and where one that is not goes on."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mantlet.errors import ConfigError
from serving.events.chain import NEW, Broken, Chain, Record, Tip
from serving.events.kinds import Repaired

TOLD = 10
"""Problems that are told one by one."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found: ``problems`` name file, line and what is wrong; none when the chain is whole.

    ``unfinished`` are bytes of a line without an end, which the next start sets aside.
    """

    events: int
    tip: Tip
    unfinished: int
    problems: tuple[str, ...]


def resume(
    chain: Chain, last: bytes | None, head: bytes | None, *, torn: int, where: str
) -> tuple[Tip, Repaired | None]:
    """Where a log goes on, and what to say of it: from its last line, its head and the bytes set aside.

    A log may be ahead of its head, for a process may die between the two. One that is behind goes on
    from the head, so that the numbers of what is missing stay missing. Raises `ConfigError` when
    neither was sealed with this secret.
    """
    if last is None and head is None and not torn:
        return NEW, None
    tail = NEW if last is None else _tail(chain, last)
    known = None if head is None else _known(chain, head)
    if known is None:
        if tail is None or tail == NEW:
            raise ConfigError(
                f"events '{where}': neither the last record nor the head was sealed with this secret;"
                " restore the secret, or move both away to begin a new log"
            )
        return tail, Repaired(problem="head_lost", set_aside=torn)
    if tail is None or tail.count < known.count or (tail.count == known.count and tail != known):
        return known, Repaired(problem="behind_head", set_aside=torn)
    return tail, Repaired(problem="torn_line", set_aside=torn) if torn else None


def _tail(chain: Chain, last: bytes) -> Tip | None:
    try:
        return chain.parse(last).tip
    except Broken:
        return None


def _known(chain: Chain, head: bytes) -> Tip | None:
    try:
        return chain.parse_head(head)
    except Broken:
        return None


def check(
    chain: Chain,
    files: Iterable[tuple[str, Iterable[bytes]]],
    head: bytes | None,
    *,
    unfinished: int,
    where: str,
    first: int = 1,
) -> Report:
    """Follow the chain through ``files``, names with lines in their order, and compare its end with the head.

    Records before number ``first`` may be missing, and are not looked at. ``where`` names the log.
    """
    walk = _Walk(chain, where, first, Tip(first - 1, NEW.hash))
    walk.take_head(head)
    for name, lines in files:
        walk.where, walk.position = name, 0
        for line in lines:
            walk.take(line)
    walk.end()
    if walk.untold:
        walk.problems.append(f"{where}: and {walk.untold} more such problems")
    return Report(walk.good, walk.tip, unfinished, tuple(walk.problems))


@dataclass(slots=True)
class _Walk:
    """From line to line: ``tip`` is the last good record, ``unsure`` the unreadable lines after it."""

    chain: Chain
    where: str
    first: int
    tip: Tip
    known: Tip = NEW
    position: int = 0
    good: int = 0
    unsure: int = 0
    problems: list[str] = field(default_factory=list)
    untold: int = 0

    def take_head(self, head: bytes | None) -> None:
        try:
            if head is None:
                raise Broken("is gone, so records may be missing at the end")
            self.known = self.chain.parse_head(head)
        except Broken as error:
            self._tell(f"its head {error}")

    def take(self, line: bytes) -> None:
        self.position += 1
        try:
            record = self.chain.parse(line)
        except Broken as error:
            self.unsure += 1
            self._tell_line(f"{error}")
            return
        if record.number < self.first:
            return
        self.good += 1
        wanted = self.tip.count + 1
        if record.number < wanted:
            self._tell_line(
                f"record {record.number} stands where {wanted} should: moved or inserted"
            )
            return
        if record.number > wanted + self.unsure:
            self._tell_line(
                f"before record {record.number}, {_gap(wanted, record.number - 1)} missing"
            )
        elif record.number == wanted and record.previous != self.tip.hash and wanted != self.first:
            self._tell_line(f"record {record.number} does not follow from the one before it")
        self._compare(record)
        self.tip, self.unsure = record.tip, 0

    def _compare(self, record: Record) -> None:
        if record.number == self.known.count and record.tip != self.known:
            self._tell_line(f"record {record.number} is not the one that the head names")
        if isinstance(record.event, Repaired) and record.event.problem == "head_lost":
            self._tell_line("the head was lost before this record, so records may be missing")

    def end(self) -> None:
        last = self.tip.count + self.unsure
        if last < self.known.count:
            gap = _gap(last + 1, self.known.count)
            self._tell(f"ends after line {self.position}: {gap} missing")
        elif last < self.first and self.first > 1:
            self._tell(f"ends with record {self.known.count}, and {self.first} was to be the first")

    def _tell_line(self, problem: str) -> None:
        self._tell(f"line {self.position}: {problem}")

    def _tell(self, problem: str) -> None:
        if len(self.problems) < TOLD:
            self.problems.append(f"{self.where}: {problem}")
        else:
            self.untold += 1


def _gap(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"
