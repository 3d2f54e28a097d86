"""The event log as a file of JSON lines, which several processes of a machine may share."""

import fcntl
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from mantlet.errors import ConfigError, StoreError
from serving.events import audit
from serving.events.chain import Chain, Record, Tip
from serving.events.kinds import Event

NUMBER = re.compile(rb'\{"number":(\d+),')
CHUNK = 64 * 1024


class JsonlFile:
    """One record a line, and beside it a small file, the head, that tells how long it must be.

    Who appends holds a lock on the folder and looks at the end of the file anew, so it does not matter
    who wrote last, or died while it did. A write reaches the system in one step, without waiting for
    the disk: it survives the process, and a power failure may take the last ones.

    A file of more than ``most`` bytes is put away before the next event: it gets the number of its last record
    as a name, ``FILE.5000``, and the chain goes on in a new one. It is read and checked for as long as it lies there.
    """

    def __init__(self, path: Path, chain: Chain, most: int | None = None) -> None:
        self._path = path
        self._head_path = path.with_name(path.name + ".head")
        self._torn_path = path.with_name(path.name + ".torn")
        self._chain = chain
        self._most = most

    def append(self, entries: Sequence[tuple[float, Event]], at: float) -> list[Record]:
        """Write events with their times, after one that tells of a repair made at ``at``."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with alone(self._path.parent):
                self._put_away()
                with self._open(os.O_RDWR | os.O_CREAT | os.O_APPEND) as file:
                    return self._append(file, list(entries), at)
        except OSError as error:
            raise StoreError(f"events '{self._path}' cannot be written: {error}") from error

    def _put_away(self) -> None:
        """Give a file that is too large the number of its last record as a name, so that a new one is begun.

        One with a line without an end is mended first, and put away at the next event. Where a file has that
        name already nothing is put away, and `verify` tells of it.
        """
        if self._most is None or not self._path.exists() or self._path.stat().st_size <= self._most:
            return
        with self._open(os.O_RDONLY) as file:
            end, last = _tail(file)
            whole = end == os.fstat(file).st_size
        number = _number(last or b"")
        if whole and number:
            kept = self._path.with_name(f"{self._path.name}.{number}")
            if not kept.exists():
                self._path.rename(kept)

    def _kept(self) -> list[tuple[int, Path]]:
        """Files that were put away, with the number of their last record, in the order of it."""
        if not self._path.parent.is_dir():
            return []
        named = re.compile(re.escape(self._path.name) + r"\.([1-9][0-9]*)")
        files = ((named.fullmatch(path.name), path) for path in self._path.parent.iterdir())
        return sorted((int(found[1]), path) for found, path in files if found and path.is_file())

    def _append(self, file: int, entries: list[tuple[float, Event]], at: float) -> list[Record]:
        end, last = _tail(file)
        kept = self._kept() if last is None else []
        if kept:  # a process died after it put a file away
            with kept[-1][1].open("rb") as before:
                last = _tail(before.fileno())[1]
        head = self._head()
        torn = self._set_aside(file, end)
        tip, repaired = audit.resume(self._chain, last, head, torn=torn, where=str(self._path))
        if head is None and repaired is None:
            self._write_head(tip)  # before any record, so that a log never lacks it
        if repaired:
            entries.insert(0, (at, repaired))
        records = self._chain.records(tip, entries)
        if records:
            self._write(file, end, records)
        return records

    def lines(self, after: int) -> Iterator[bytes]:
        """The lines of the records whose number is greater than ``after``, of all files beside one another."""
        if not self._path.parent.is_dir():
            return
        with ExitStack() as stack:
            # opened before the others are listed: put away in between, it is among them
            last = stack.enter_context(self._path.open("rb")) if self._path.exists() else None
            for number, path in self._kept():
                if number > after:
                    with path.open("rb") as file:
                        for line in _lines(file, after):
                            yield line
                            # of the record, not of the name, which anybody may give
                            after = _number(line) or after
            if last is not None:
                yield from _lines(last, after)

    def begun(self) -> bool:
        """Whether there is anything to read: the file, or such as were put away."""
        return self._path.is_file() or bool(self._kept())

    def verify(self, files: Sequence[Path] = (), first: int = 1) -> audit.Report:
        """Check every record from number ``first`` up to the end that the file has now.

        ``files`` were put away, and then moved from beside it; they come first, in their order.
        """
        where = str(self._path)
        if not (self.begun() or self._head_path.exists()):
            raise ConfigError(f"events '{where}': there are none; mantlet serve begins the log")
        try:
            with ExitStack() as stack:
                end = unfinished = 0
                with alone(self._path.parent):
                    head, kept = self._head(), self._kept()
                    now = (
                        stack.enter_context(self._path.open("rb")) if self._path.exists() else None
                    )
                    if now is not None:
                        end, _ = _tail(now.fileno())
                        unfinished = os.fstat(now.fileno()).st_size - end
                told = [(str(path), _whole(path)) for path in (*files, *(path for _, path in kept))]
                if now is not None:
                    told.append((where, (line[:-1] for line in now if now.tell() <= end)))
                report = audit.check(
                    self._chain, told, head, unfinished=unfinished, where=where, first=first
                )
            return replace(report, problems=(*report.problems, *_misnamed(kept)))
        except OSError as error:
            raise ConfigError(f"events '{where}' cannot be read: {error}") from error

    @contextmanager
    def _open(self, how: int) -> Iterator[int]:
        file = os.open(self._path, how, 0o600)
        try:
            yield file
        finally:
            os.close(file)

    def _head(self) -> bytes | None:
        try:
            return self._head_path.read_bytes()
        except FileNotFoundError:
            return None

    def _write_head(self, tip: Tip) -> None:
        new = self._head_path.with_name(self._head_path.name + ".new")
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(file, "wb") as content:
            content.write(self._chain.head(tip))
        os.replace(new, self._head_path)

    def _set_aside(self, file: int, end: int) -> int:
        """Move a line without an end to a file of its own; how many bytes it had."""
        size = os.fstat(file).st_size
        if size > end:
            torn = os.open(self._torn_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(torn, "wb") as aside:
                aside.write(os.pread(file, size - end, end) + b"\n")
            os.ftruncate(file, end)
        return size - end

    def _write(self, file: int, end: int, records: Sequence[Record]) -> None:
        """The records and then the head; neither, when there is no room for both."""
        content = b"".join(record.line + b"\n" for record in records)
        try:
            while content:
                content = content[os.write(file, content) :]
            self._write_head(records[-1].tip)
        except OSError:
            os.ftruncate(file, end)
            raise


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else appends to a log in ``folder``; whoever dies lets go."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _misnamed(kept: Iterable[tuple[int, Path]]) -> Iterator[str]:
    """Files whose last record is not the one that they are named after: readers would look past them."""
    for number, path in kept:
        with path.open("rb") as file:
            end, last = _tail(file.fileno())
            whole = end == os.fstat(file.fileno()).st_size
        if not whole or _number(last or b"") != number:
            yield f"{path}: does not end with record {number}: renamed, put in, or cut off"


def _number(line: bytes) -> int:
    """The number of a record, 0 of none."""
    found = NUMBER.match(line)
    return int(found[1]) if found else 0


def _whole(path: Path) -> Iterator[bytes]:
    """The lines of a file that was put away."""
    with path.open("rb") as file:
        for line in file:
            yield line.removesuffix(b"\n")


def _lines(file: BinaryIO, after: int) -> Iterator[bytes]:
    """The whole lines of a file whose number is greater than ``after``."""
    low, high = 0, os.fstat(file.fileno()).st_size
    while high - low > CHUNK:
        file.seek((low + high) // 2)
        file.readline()
        start, found = file.tell(), NUMBER.match(file.readline())
        if start < high and found and int(found[1]) <= after:
            low = start
        else:
            high = (low + high) // 2
    file.seek(low)
    for line in file:
        if not line.endswith(b"\n"):
            return  # it is being written: to read on would give its second half as a line
        found = NUMBER.match(line)
        if not (found and int(found[1]) <= after):
            yield line[:-1]


def _tail(file: int) -> tuple[int, bytes | None]:
    """Where the last whole line ends, and the line."""
    size = os.fstat(file).st_size
    step = CHUNK
    while True:
        start = max(0, size - step)
        data = os.pread(file, size - start, start)
        stop = data.rfind(b"\n")
        begin = data.rfind(b"\n", 0, max(stop, 0))
        if start == 0 or begin >= 0:
            return (start + stop + 1, data[begin + 1 : stop]) if stop >= 0 else (0, None)
        step *= 4
