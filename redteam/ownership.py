"""The ownership bench: whether a clone's marks are found, what it takes to lose them, and who is accused.

Run as: python -m redteam.ownership --data FOLDER --out docs/results/ownership.json
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from rich.progress import track
from torch import Tensor, nn

from defenses.dawn import Dawn
from mantlet import simplex
from mantlet.data import load_images
from mantlet.errors import ConfigError
from mantlet.plugin import Setup
from mantlet.types import Prediction, Query, Signal
from redteam.judging import Record, lines
from redteam.learning import Means, Training, Transfer, answers_of, train
from redteam.measures import accuracy, clean
from redteam.pools import Pools, arguments
from serving import logs
from serving.ownership import Reading, read
from serving.victims.torch import TorchVictim

WEIGHTS = Path(__file__).parents[1] / "configs/models/mnist-lenet.safetensors"
SEEDS = (0, 1, 2)
RATES = (0.005, 0.02, 0.05)
USUAL = 0.02
"""The rate at which thieves who know of the mark are tried."""
CLASSES = 10
SUSPICION = 0.5
Ask = Callable[[Tensor], Tensor]
"""From (n, *shape) rows to the (n, C) answers of the gateway."""


@dataclass(frozen=True, slots=True)
class Size:
    """Rows of a thief, updates of its clone, and keys that are tried beside the right one."""

    rows: int = 5_000
    steps: int = 1_500
    wrong_keys: int = 100


FULL, SMALL = Size(), Size(rows=600, steps=60, wrong_keys=5)


@dataclass(frozen=True, slots=True)
class House:
    """What all cases share: the model, the thief's pictures, labelled ones, and the test pictures."""

    victim: TorchVictim
    pools: Mapping[str, Tensor]
    labelled: Transfer
    test: Transfer
    size: Size = FULL
    independent: dict[int, nn.Module] = field(default_factory=dict)

    def honest(self, seed: int) -> nn.Module:
        """A model of true labels, made once a seed, that never saw an answer."""
        if seed not in self.independent:
            generator = torch.Generator().manual_seed(1_000 + seed)
            pool = self.labelled.inputs
            own = Thief(lambda rows: rows, pool, self.labelled, self.size.steps, generator)
            self.independent[seed] = own.learned(self.labelled)
        return self.independent[seed]


@dataclass(frozen=True, slots=True)
class Case:
    """One thief's attempt."""

    pool: str
    rate: float
    thief: str
    seed: int

    @property
    def about(self) -> Record:
        """What its records begin with."""
        return {
            "victim": "mnist",
            "pool": self.pool,
            "rate": self.rate,
            "thief": self.thief,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class Thief:
    """Means of a thief: ``ask`` the gateway, ``pool`` (n, *shape), ``labelled`` rows of its own."""

    ask: Ask
    pool: Tensor
    labelled: Transfer
    steps: int
    generator: torch.Generator

    def learned(self, transfer: Transfer) -> nn.Module:
        """A new clone of a training set."""
        clone = Means(self.pool, CLASSES).network(self.generator)
        train(clone, transfer, Training(steps=self.steps), self.generator)
        return clone


Stolen = tuple[nn.Module, Tensor]
"""The clone, and the rows (n, *shape) that were sent for it: the owner's evidence."""


def plain(thief: Thief) -> Stolen:
    """Learns from the answers as they are."""
    return thief.learned(Transfer(thief.pool, thief.ask(thief.pool))), thief.pool


def labels(thief: Thief) -> Stolen:
    """Learns from the top classes alone."""
    top = thief.ask(thief.pool).argmax(dim=1)
    answers = simplex.one_hot(top, CLASSES)
    return thief.learned(Transfer(thief.pool, answers)), thief.pool


def jittered(thief: Thief) -> Stolen:
    """Asks about noisy copies, and learns what was said of them as that of the pictures."""
    sent = _noisy(thief.pool, 0.03, thief.generator)
    return thief.learned(Transfer(thief.pool, thief.ask(sent))), sent


def voting(thief: Thief) -> Stolen:
    """Asks five noisy copies of a fifth of the pictures, and learns from the mean of the answers."""
    return _voted(thief, lambda rows: _noisy(rows, 0.1, thief.generator))


def moving(thief: Thief) -> Stolen:
    """As `voting`, with copies that are moved by a pixel or stay."""
    places = iter([(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)])
    return _voted(thief, lambda rows: torch.roll(rows, next(places), dims=(2, 3)))


def turning(thief: Thief) -> Stolen:
    """As `voting`, with copies that are turned by up to 20 degrees or stay."""
    degrees = iter([0, -20, -10, 10, 20])
    return _voted(thief, lambda rows: _turned(rows, next(degrees)))


def sceptical(thief: Thief) -> Stolen:
    """Drops the rows that a clone of the other half of them contradicts, and learns from the rest."""
    answers = thief.ask(thief.pool)
    kept = torch.zeros(len(answers), dtype=torch.bool)
    half = torch.arange(len(answers)) % 2 == 0
    for own, other in ((half, ~half), (~half, half)):
        judge = thief.learned(Transfer(thief.pool[other], answers[other]))
        kept[own] = answers_of(judge, thief.pool[own]).argmax(1) == answers[own].argmax(1)
    return thief.learned(Transfer(thief.pool[kept], answers[kept])), thief.pool


def tuning(thief: Thief) -> Stolen:
    """Trains the clone on with 1,000 true labels, for a third of the updates at a tenth of the rate."""
    clone, sent = plain(thief)
    gentle = Training(steps=max(1, thief.steps // 3), lr=0.005)
    train(clone, thief.labelled, gentle, thief.generator)
    return clone, sent


def _voted(thief: Thief, copy: Callable[[Tensor], Tensor]) -> Stolen:
    pictures = thief.pool[: len(thief.pool) // 5]
    copies = [copy(pictures) for _ in range(5)]
    answers = torch.stack([thief.ask(rows) for rows in copies]).mean(dim=0)
    return thief.learned(Transfer(pictures, answers)), torch.cat(copies)


def _turned(rows: Tensor, degrees: int) -> Tensor:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = torch.tensor([[c, -s, 0.0], [s, c, 0.0]], dtype=torch.float32)
    places = nn.functional.affine_grid(
        affine.expand(len(rows), 2, 3), list(rows.shape), align_corners=False
    )
    return nn.functional.grid_sample(rows, places, align_corners=False)


def _noisy(rows: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(rows.shape, generator=generator)
    return (rows + sigma * drawn).clamp(0, 1)


THIEVES: Mapping[str, Callable[[Thief], Stolen]] = {
    "plain": plain,
    "labels": labels,
    "jittered": jittered,
    "voting": voting,
    "moving": moving,
    "turning": turning,
    "sceptical": sceptical,
    "tuning": tuning,
}
"""By name, each from its means to its clone; all but the first two know of the mark."""


def main() -> None:
    """Run the cases whose records are not yet in the file, and write it after each."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--smoke", action="store_true", help="few rows, short training")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logs.configure("error")
    try:
        house = opened(Pools(given.data), SMALL if given.smoke else FULL)
    except ConfigError as error:
        parser.error(str(error))
    run(house, cases(list(house.pools), given.seeds), given.out)


def opened(pools: Pools, size: Size = FULL) -> House:
    """The shipped model; pictures it was not trained on, of its own kind and of two foreign families."""
    victim = TorchVictim(type="torch", weights=WEIGHTS, architecture="lenet")
    victim.load(Setup(torch.device("cpu"), b""))
    held_out = load_images(pools.path("mnist"), "train", slice(55_000, 55_000 + size.rows))
    own = load_images(pools.path("mnist"), "train", slice(10_000))
    test = load_images(pools.path("mnist"), "test")
    foreign = {
        family: load_images(pools.path(family), "train", slice(size.rows)).x
        for family in ("notmnist", "omniglot")
    }
    sent = {"mnist": held_out.x} | foreign
    return House(
        victim,
        {name: torch.from_numpy(x) for name, x in sent.items()},
        _labelled(own.x, own.y),
        _labelled(test.x, test.y),
        size,
    )


def _labelled(x: np.ndarray, y: np.ndarray | None) -> Transfer:
    assert y is not None
    return Transfer(torch.from_numpy(x), simplex.one_hot(torch.from_numpy(y), CLASSES))


def cases(pools: Sequence[str], seeds: Sequence[int]) -> Iterator[Case]:
    """With pictures of the model's kind every rate, and every thief at one; with others that one alone."""
    for seed, pool in product(seeds, pools):
        for rate in (0.0, *RATES) if pool == "mnist" else (0.0, USUAL):
            yield Case(pool, rate, "plain", seed)
        for thief in THIEVES:
            if thief != "plain" and pool == "mnist":
                yield Case(pool, USUAL, thief, seed)


def run(house: House, wanted: Iterator[Case], out: Path) -> None:
    """Records of the cases, in the file's order; those it has already are kept."""
    records: list[Record] = orjson.loads(out.read_bytes()) if out.is_file() else []
    known = {tuple(r[k] for k in ("pool", "rate", "thief", "seed")) for r in records}
    out.parent.mkdir(parents=True, exist_ok=True)
    left = [c for c in wanted if (c.pool, c.rate, c.thief, c.seed) not in known]
    for case in track(left, "ownership"):
        records += measured(house, case)
        out.write_bytes(lines(records))


def measured(house: House, case: Case) -> list[Record]:
    """Steal, then look for the mark: in the clone and in a model that never saw an answer."""
    pool = house.pools[case.pool]
    generator = torch.Generator().manual_seed(case.seed)
    dawn = marking(case.rate, _key(case.seed))
    thief = Thief(
        lambda rows: answered(house.victim, dawn, rows),
        pool[torch.randperm(len(pool), generator=generator)],
        Transfer(house.labelled.inputs[:1000], house.labelled.answers[:1000]),
        house.size.steps,
        generator,
    )
    clone, sent = THIEVES[case.thief](thief)
    about = case.about | {
        "rows": len(sent),
        "clone_accuracy": _accuracy(clone, house.test),
        "changed": _changed(house.victim, dawn, sent),
    }
    sources = {"submitted": sent}
    if case.pool == "mnist":
        sources["others"] = house.test.inputs  # of the same kind, none of which was asked
    found = []
    for evidence, rows in sources.items():
        found += _looked(house, case, about | {"evidence": evidence}, clone, rows)
    return found


def _looked(
    house: House, case: Case, about: Record, clone: nn.Module, rows: Tensor
) -> list[Record]:
    """The right key on the clone and on an independent model, and wrong keys on the clone."""
    rate = case.rate or USUAL  # of answers without a mark the owner would not know
    top = _tops(clean(house.victim, rows))
    said = _tops(answers_of(clone, rows))
    right = marking(rate, _key(case.seed))
    found = [about | {"model": "clone"} | _reading(right, rows, top, said)]
    if case.thief != "plain" or about["evidence"] != "submitted":
        return found
    honest = _tops(answers_of(house.honest(case.seed), rows))
    found.append(about | {"model": "independent"} | _reading(right, rows, top, honest))
    wrong = [
        _reading(marking(rate, _key(10_000 + n)), rows, top, said)["p"]
        for n in range(house.size.wrong_keys)
    ]
    summary = {"keys": len(wrong), "p": min(wrong), "p_median": float(np.median(wrong))}
    summary["p_to_005"] = float(np.mean(np.array(wrong) <= 0.05))
    return [*found, about | {"model": "clone, wrong keys"} | summary]


def marking(rate: float, key: bytes) -> Dawn:
    """The defense at one rate for suspected clients."""
    dawn = Dawn(rate_suspected=rate)
    dawn.load(Setup(torch.device("cpu"), key))
    return dawn


def answered(victim: TorchVictim, dawn: Dawn, rows: Tensor) -> Tensor:
    """(n, C) what a suspected client is answered."""
    prediction = Prediction(clean(victim, rows), victim.kind)
    count = len(rows)
    signal = Signal(
        torch.full((count,), SUSPICION), torch.zeros(count, dtype=torch.bool), "evidence"
    )
    return dawn(prediction, Query(["thief"] * count, rows, 0.0), {"evidence": signal}).values


def _changed(victim: TorchVictim, dawn: Dawn, rows: Tensor) -> float:
    """The share of rows that are answered with another class."""
    return float(np.mean(_tops(answered(victim, dawn, rows)) != _tops(clean(victim, rows))))


def _reading(dawn: Dawn, rows: Tensor, clean: np.ndarray, said: np.ndarray) -> dict[str, Any]:
    reading: Reading = read(
        "", dawn.marks(rows, CLASSES), clean, said, CLASSES, dawn.rate_suspected
    )
    return {"marked": reading.marked, "named": reading.named, "p": reading.p}


def _accuracy(network: nn.Module, test: Transfer) -> float:
    return accuracy(answers_of(network, test.inputs), test.answers.argmax(dim=1))


def _tops(values: Tensor) -> np.ndarray:
    tops: np.ndarray = values.argmax(dim=1).numpy()
    return tops


def _key(seed: int) -> bytes:
    return f"the owner's key {seed}".encode()


if __name__ == "__main__":
    main()
