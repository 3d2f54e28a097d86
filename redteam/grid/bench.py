"""The grid: every theft of a plan, in process, each kept as soon as it is done."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor, nn

from mantlet import simplex
from mantlet.errors import ConfigError, MantletError
from mantlet.types import Query
from redteam import measures
from redteam.grid import chains, summary
from redteam.grid.chains import Chain, Place
from redteam.grid.plan import Attacker, Cell, Plan
from redteam.grid.thief import attack_of, oracle_of
from redteam.house import House
from redteam.judging import Record, lines
from redteam.learning import Means
from redteam.pools import Pools
from serving import logs
from serving.folding import Memory
from serving.pipeline import Pipeline

FORMAT = 1
"""Raised when the grid itself measures otherwise: then every cell is run again."""
TIMED = 40
"""Batches of `BATCH` rows whose time is taken."""
BATCH = 32


@dataclass(frozen=True, slots=True)
class Bench:
    """A plan and the folders of its data and of what was done."""

    plan: Plan
    data: Path
    work: Path

    @property
    def place(self) -> Place:
        """For the chains."""
        return Place(Pools(self.data), self.work)

    @property
    def done(self) -> Path:
        """A record a line, with its key."""
        return self.work / "cells.jsonl"


@dataclass(frozen=True, slots=True)
class Found:
    """Records of the plan's cells that are done, in its order; what failed, in words."""

    records: Sequence[Record]
    failed: Sequence[str]
    missed: Sequence[str]


@dataclass
class Rows:
    """The rows of a table that one process has worked on: none is loaded twice."""

    bench: Bench
    known: dict[tuple[str, str], tuple[Chain, Record, Mapping[str, Memory]]] = field(
        default_factory=dict
    )

    def row(self, victim: str, defense: str) -> tuple[Chain, Record, Mapping[str, Memory]]:
        """The chain, what honest clients get of it, and what is remembered of them."""
        if (victim, defense) not in self.known:
            self.known[victim, defense] = self._load(victim, defense)
        return self.known[victim, defense]

    def _load(self, victim: str, defense: str) -> tuple[Chain, Record, Mapping[str, Memory]]:
        bench = self.bench
        chain = chains.load(bench.plan, victim, defense, bench.place)
        shape = chain.pipeline.victim.input.shape
        inputs, labels = chains.judged_on(bench.plan.victims[victim], bench.place, shape)
        scores, house = honest(chain.pipeline, inputs, labels, bench.plan)
        stamp = chains.digest(chains.of_row(bench.plan, victim, defense))
        path = bench.work / "added" / f"{stamp}.json"
        if not path.is_file():  # one process times it, all cells tell the same
            path.parent.mkdir(exist_ok=True)
            own = path.with_suffix(f".{os.getpid()}")  # another process may be at it too
            own.write_bytes(orjson.dumps({"added_ms": added_ms(chain.pipeline, inputs)}))
            own.replace(path)
        return chain, {**scores, **orjson.loads(path.read_bytes())}, house.memories


def run(
    bench: Bench,
    *,
    only: str = "",
    jobs: int = 1,
    progress: Callable[[int, int, str], None] = lambda done, of, what: None,
) -> Found:
    """Run the cells that are not done, at most ``jobs`` at once; each is written as soon as it is.

    A cell that fails leaves the others alone. Interrupted, it keeps what is done and raises
    `KeyboardInterrupt`; the next run goes on from there. Raises `ConfigError` for what no cell can run
    without.
    """
    bench.work.mkdir(parents=True, exist_ok=True)
    cells = bench.plan.cells(only)
    for victim, defense in dict.fromkeys((cell.victim, cell.defense) for cell in cells):
        chains.prepare(bench.plan, victim, defense, bench.place)
    keys = dict(zip(cells, _keys(bench.plan, cells), strict=True))
    known = kept(bench.done)
    wanted = [cell for cell in cells if keys[cell] not in known]
    failed = []
    progress(len(cells) - len(wanted), len(cells), "")
    for number, (cell, outcome) in enumerate(_outcomes(bench, wanted, jobs), start=1):
        if isinstance(outcome, str):
            failed.append(f"{cell.words}: {outcome}")
        else:
            known[keys[cell]] = outcome
            _keep(bench.done, {"key": keys[cell], **outcome})
        progress(len(cells) - len(wanted) + number, len(cells), cell.words)
    records = list(_chosen(cells, keys.values(), known).values())
    return Found(records, failed, missed(bench.plan, records))


def missed(plan: Plan, records: Sequence[Record]) -> list[str]:
    """The plan's floors that records miss, in words."""
    found = (floor.misses(record) for floor in plan.floors for record in records)
    return [words for words in found if words]


def records_of(bench: Bench) -> dict[Cell, Record]:
    """Records of the plan's cells that are done."""
    cells = bench.plan.cells()
    return _chosen(cells, _keys(bench.plan, cells), kept(bench.done))


def written(plan: Plan, path: Path) -> dict[Cell, Record]:
    """Records of a results file by the cell of the plan that they are of; none where there is no file.

    Raises `ConfigError` where it holds something else: to write there would lose it.
    """
    cells = {
        _names(cell.victim, cell.defense, cell.attacker, cell.budget, cell.seed): cell
        for cell in plan.cells()
    }
    found = {}
    for record in summary.read(path) if path.exists() else ():
        names = _names(
            *(record[name] for name in ("victim", "defense", "attack", "budget", "seed"))
        )
        if names not in cells:
            raise ConfigError(
                f"results '{path}' hold the theft '{', '.join(names)}', which is not in the plan;"
                " give another file with --out, or delete this one"
            )
        found[cells[names]] = {**record, "seeds": cells[names].seeds}
    return found


def _names(*parts: object) -> tuple[str, ...]:
    return tuple(map(str, parts))


def _chosen(
    cells: Iterable[Cell], keys: Iterable[str], known: Mapping[str, Record]
) -> dict[Cell, Record]:
    """Records of the cells that are done; how many ``seeds`` a theft has is the plan's to say."""
    pairs = zip(cells, keys, strict=True)
    return {cell: {**known[key], "seeds": cell.seeds} for cell, key in pairs if key in known}


def write(bench: Bench, path: Path) -> tuple[int, int]:
    """A JSON list with a record a line, of the cells that are done and those that the file has already.

    Tells how many there are, and how many stay as they were. Raises as `written` does.
    """
    done, before = records_of(bench), written(bench.plan, path)
    known = before | done
    records = [known[cell] for cell in bench.plan.cells() if cell in known]
    if records:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lines(records))
    return len(records), len(records) - len(done)


def kept(path: Path) -> dict[str, Record]:
    """Records by key; a last line that was not finished is no record."""
    found: dict[str, Record] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        found[record.pop("key")] = record
    return found


def _keep(path: Path, record: Record) -> None:
    with path.open("ab") as file:
        if file.tell() and not path.read_bytes().endswith(b"\n"):
            file.write(b"\n")  # after a line that was not finished
        file.write(orjson.dumps(record) + b"\n")


def _keys(plan: Plan, cells: Sequence[Cell]) -> list[str]:
    """A name of each cell by all that its record follows from."""
    row = cache(lambda victim, defense: chains.of_row(plan, victim, defense))
    attack = cache(lambda name, defense: _of_attacker(plan, plan.attackers[name], defense))
    return [
        chains.digest(
            [
                FORMAT,
                row(cell.victim, cell.defense),
                attack(cell.attacker, cell.defense),
                plan.victims[cell.victim].foreign,
                [cell.victim, cell.defense, cell.attacker],
                [cell.budget, cell.seed],
            ]
        )
        for cell in cells
    ]


def _of_attacker(plan: Plan, attacker: Attacker, defense: str) -> dict[str, Any]:
    names = set(Attacker.model_fields) - {"attack", "budgets", "seeds", "against", "victims"}
    settings = attacker.model_dump(include=names)
    attack = attack_of(plan, attacker, defense)
    told = [chains.told(attack), *map(chains.told, attack.treatments)]
    return {**settings, "told": told, "clone": (attacker.clone or plan.clone).model_dump()}


def _outcomes(
    bench: Bench, cells: Sequence[Cell], jobs: int
) -> Iterator[tuple[Cell, Record | str]]:
    """Every cell with its record, or why there is none, as they come."""
    if jobs == 1:
        rows = Rows(bench)
        for cell in cells:
            yield cell, attempt(rows, cell)
        return
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (bench,))
    try:
        running: dict[Future[Record | str], Cell] = {
            pool.submit(_in_worker, cell): cell for cell in cells
        }
        for future in as_completed(running):
            yield running[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_rows: list[Rows] = []
"""Of a worker process: the one bench that it works for."""


def _begin(bench: Bench) -> None:
    """A worker: one thread, no log, and Ctrl-C ends it without words."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    logs.configure("error")
    _rows.append(Rows(bench))


def _in_worker(cell: Cell) -> Record | str:
    return attempt(_rows[0], cell)


def attempt(rows: Rows, cell: Cell) -> Record | str:
    """The record of a cell, or in words why there is none."""
    try:
        return measure(rows, cell)
    except MantletError as error:
        return str(error)
    except Exception as error:  # the other thefts go on; this one is told, and the bench fails
        return f"{type(error).__name__}: {error}"


def measure(rows: Rows, cell: Cell) -> Record:
    """Steal once, and judge the clone."""
    plan, place = rows.bench.plan, rows.bench.place
    attacker, target = plan.attackers[cell.attacker], plan.victims[cell.victim]
    clone = attacker.clone or plan.clone
    began = perf_counter()
    chain, honest, memories = rows.row(cell.victim, cell.defense)
    pipeline = chain.pipeline
    shape = pipeline.victim.input.shape
    # the same pictures in the same order before every defense, and the first of them at a lower budget
    rng = np.random.default_rng([cell.seed, *f"{cell.victim} {cell.attacker}".encode()])
    means = Means(
        chains.pool(target, attacker, place, shape=shape, rng=rng),
        pipeline.victim.classes,
        clone.architecture,
        clone.settings,
    )
    house = House(pipeline, chain.search, memories, plan.sent_at_once(cell.defense), attacker.tier)
    own = chains.own_rows(target, place, shape=shape, rng=rng) if attacker.cover else None
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    oracle = oracle_of(attacker, house, cell, stock=own, generator=generator)
    attack = attack_of(plan, attacker, cell.defense)
    loot = attack.run(oracle, means, budget=cell.budget, generator=generator)
    scores = _worth(loot.clone, pipeline, *chains.judged_on(target, place, shape))
    return {
        "victim": cell.victim,
        "defense": cell.defense,
        "attack": cell.attacker,
        "attacker_data": attacker.data,
        "budget": cell.budget,
        "seed": cell.seed,
        **measures.rounded(scores),
        **honest,
        "verdict": measures.verdict(scores["agreement"]),
        **_treated(house, attacker),
        "rows_sent": house.rows,
        "ended": loot.ended,
        "adaptive": attacker.adaptive,
        "seconds": round(perf_counter() - began, 1),
    }


def _worth(
    clone: nn.Module, pipeline: Pipeline, inputs: Tensor, labels: Tensor
) -> dict[str, float]:
    """What a clone is worth on (n, *shape) inputs of (n,) labels."""
    stolen = measures.probabilities(clone, inputs)
    return measures.clone_scores(stolen, measures.clean(pipeline.victim, inputs), labels)


def _treated(house: House, attacker: Attacker) -> Record:
    """After how many rows of all accounts the first one, and the last one, was alarmed and denied."""
    every = len(house.denied) == attacker.accounts
    return {
        "rows_until_alarm": min(house.alarmed.values(), default=None),
        "rows_until_denied": min(house.denied.values(), default=None),
        "rows_until_all_denied": max(house.denied.values()) if every else None,
        "accounts": attacker.accounts,
        "accounts_alarmed": len(house.alarmed),
        "accounts_denied": len(house.denied),
    }


def honest(pipeline: Pipeline, inputs: Tensor, labels: Tensor, plan: Plan) -> tuple[Record, House]:
    """What honest clients of ``plan.honest`` rows each receive, all rows (n, *shape) once."""
    house = House(pipeline, request=plan.request)
    clean = measures.clean(pipeline.victim, inputs)
    answers = []
    for number, rows in enumerate(torch.split(torch.arange(len(inputs)), plan.honest)):
        for part in torch.split(rows, plan.request):
            released = house.ask(f"honest {number}", inputs[part]).rows(0, len(part))
            values = torch.zeros_like(clean[part]) if released is None else released.values
            if values.ndim == 1:
                values = simplex.one_hot(values, clean.shape[1]).to(clean.dtype)
            answers.append(values)
    told = {
        **measures.rounded(measures.honest_scores(torch.cat(answers), clean, labels)),
        "victim_accuracy": round(measures.accuracy(clean, labels), 5),
        "honest_clients": number + 1,
        "honest_alarmed": len(house.alarmed),
        "honest_denied": len(house.denied),
    }
    return told, house


def added_ms(pipeline: Pipeline, inputs: Tensor) -> float:
    """Milliseconds a row that all but the victim takes: the median of batches of 32, one thread.

    Time of the processor, which other programs do not disturb as much as that of the clock.
    """
    bare, spent = Pipeline(pipeline.victim), []
    memories: Mapping[str, Memory] = {}
    for number, part in enumerate(torch.split(inputs, BATCH)[:TIMED]):
        query = Query(["timed"] * len(part), part, float(number))
        began = thread_time()
        memories = pipeline.run(query, memories).memories
        between = thread_time()
        bare.run(query, {})
        spent.append(2 * between - began - thread_time())
    return round(1000 * median(spent) / BATCH, 4)
