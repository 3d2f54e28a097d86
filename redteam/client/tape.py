"""What was answered, on disk: a run that stopped is run again over it, and asks only what is new."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import safetensors.torch
import torch
from torch import Tensor

from mantlet.errors import ConfigError
from redteam.client.answers import Answers
from redteam.client.oracle import Came, Explained, Explaining, Oracle, Withheld

MAGIC = b"mantlet tape 1\n"
LENGTH, DIGEST = 8, 32
"""Bytes before each record: its length, little endian, and its SHA-256."""
EXPLAINED = 0x5A
"""Tells the hash of rows that were explained from that of rows that were not."""


class Tape:
    """An oracle that writes down each answer of another one, and first gives those that it has.

    ``path`` is a file that only grows: `MAGIC`, then records, each behind its length and hash. The first
    is ``header`` as JSON, every other one a query as safetensors: hash of its rows, what it cost,
    its answer, and the ``places`` of the rows that were answered where not all were: the next record has the
    others. A record is on disk before its answer is used; what a crash left unfinished at the end is
    moved to ``path`` + ``.torn``.

    Raises `ConfigError` where the tape is of another run, naming what differs in the header, and where a
    query is not the one that was asked at this place. Rows and floats of the tape count as they did when
    they were sent, those of a query that was never answered too. ``taped`` is how many rows need not be sent.
    """

    def __init__(self, oracle: Oracle, path: Path, header: Mapping[str, Any]) -> None:
        self._oracle, self._path = oracle, path
        self._first = (oracle.rows, oracle.floats)
        self._rows = self._floats = self._queries = 0  # of what was replayed
        found = records_of(path, header)
        records = [safetensors.torch.load(record) for record in found[1:]]
        self.taped = sum(len(record["answer"]) for record in records if "answer" in record)
        self._replay: Iterator[dict[str, Tensor]] = iter(records)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        if not found:
            self._file.write(MAGIC)
            self._write(_dumped(header))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def rows(self) -> int:
        return self._rows + self._oracle.rows - self._first[0]

    @property
    def floats(self) -> int:
        return self._floats + self._oracle.floats - self._first[1]

    def query(self, inputs: Tensor) -> Tensor:
        asked, answers = _hash_of(inputs), Answers(inputs)
        for record in self._recorded(asked):
            if "answer" in record:
                answers.keep(Came(record.get("places", answers.open), record["answer"]))
            if not len(answers.open):
                break
        else:
            self._ask(asked, answers)
        return answers.whole

    def _ask(self, asked: Tensor, answers: Answers) -> None:
        """Put the open rows to the oracle; what is answered of them is on disk, whatever becomes of the others."""
        places = answers.open
        with self._recording(asked) as record:
            try:
                answers.ask(self._oracle, places)
            finally:
                came = answers.among(places)
                record |= {} if came is None else {"places": came.places, "answer": came.answers}

    def explain(self, inputs: Tensor, classes: Tensor | None = None) -> Explained:
        """As the oracle explains, or as it did; refusals of explanations are on the tape as well."""
        asked = _hash_of(inputs)
        if classes is not None:
            asked = asked ^ _hash_of(classes)
        for record in self._recorded(asked ^ EXPLAINED):
            if "answer" in record or "withheld" in record:
                break
        else:
            with self._recording(asked ^ EXPLAINED) as record:
                record |= self._explained(inputs, classes)
        if "withheld" in record:
            raise Withheld(bytes(record["withheld"].tolist()).decode())
        return Explained(record["answer"], record["maps"])

    def _explained(self, inputs: Tensor, classes: Tensor | None) -> dict[str, Tensor]:
        try:
            if not isinstance(self._oracle, Explaining):
                raise Withheld("the target explains nothing")
            told = self._oracle.explain(inputs, classes)
        except Withheld as refusal:
            return {"withheld": torch.tensor(list(str(refusal).encode()), dtype=torch.uint8)}
        return {"answer": told.answers, "maps": told.maps}

    def _recorded(self, asked: Tensor) -> Iterator[dict[str, Tensor]]:
        """What the tape has of this question, a record each time that it was put."""
        self._queries += 1
        for record in self._replay:
            if not torch.equal(record["asked"], asked):
                raise ConfigError(
                    f"tape '{self._path}': query {self._queries} is not the one that was asked before,"
                    " though the settings are the same; was it another machine? Begin anew in another folder"
                )
            rows, floats = record["cost"].tolist()
            self._rows, self._floats = self._rows + rows, self._floats + floats
            yield record

    @contextmanager
    def _recording(self, asked: Tensor) -> Iterator[dict[str, Tensor]]:
        """The record of a question, to be filled in; rows that went out count, whatever became of them."""
        record = {"asked": asked}
        before = (self._oracle.rows, self._oracle.floats)
        try:
            yield record
        finally:
            cost = (self._oracle.rows - before[0], self._oracle.floats - before[1])
            record["cost"] = torch.tensor(cost)
            whole = {name: told.contiguous() for name, told in record.items()}
            self._write(safetensors.torch.save(whole))

    def _write(self, record: bytes) -> None:
        """A whole record, on disk when this returns."""
        length = len(record).to_bytes(LENGTH, "little")
        self._file.write(length + hashlib.sha256(record).digest() + record)
        self._file.flush()
        os.fsync(self._file.fileno())


def records_of(path: Path, header: Mapping[str, Any]) -> list[bytes]:
    """The whole records of a tape, if it is of this run; none where there is no tape.

    Raises `ConfigError` for a tape of another run, and sets aside what is torn.
    """
    found = _whole(path) if path.exists() else []
    if found:
        _require_same(path, orjson.loads(found[0]), orjson.loads(_dumped(header)))
    return found


def _dumped(header: Mapping[str, Any]) -> bytes:
    return orjson.dumps(header, option=orjson.OPT_SORT_KEYS)


def _hash_of(inputs: Tensor) -> Tensor:
    """(32,) SHA-256 of the rows and their shape, as bytes."""
    rows = inputs.detach().cpu().contiguous().numpy()
    digest = hashlib.sha256(f"{rows.dtype} {rows.shape} ".encode() + rows.tobytes()).digest()
    return torch.tensor(list(digest), dtype=torch.uint8)


def _whole(path: Path) -> list[bytes]:
    data = path.read_bytes()
    if not data.startswith(MAGIC[: len(data)]):
        raise ConfigError(f"'{path}' is no tape of an attack; give another folder")
    found, at = [], len(MAGIC)
    while at + LENGTH + DIGEST <= len(data):
        start = at + LENGTH + DIGEST
        end = start + int.from_bytes(data[at : at + LENGTH], "little")
        record = data[start:end]
        if hashlib.sha256(record).digest() != data[at + LENGTH : start]:
            break
        found.append(record)
        at = end
    if not found:
        at = 0
    if at < len(data):
        with path.with_name(path.name + ".torn").open("ab") as torn:
            torn.write(data[at:])
        os.truncate(path, at)
    return found


def _require_same(path: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [
        f"{name} was {was.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]
    if changed:
        raise ConfigError(
            f"'{path.parent}' holds another run: {'; '.join(changed)};"
            " run it with the settings that it had, or give another folder"
        )
