"""The bench of explanations: what they are worth to a thief and to people, defended and not.

Run as: python -m redteam.explanations.bench --data FOLDER --out docs/results/explanations.json
"""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import torch
from rich.progress import track
from torch import Tensor

from mantlet.errors import ConfigError
from mantlet.plugin import Defense
from redteam.attacks.dfme import Dfme
from redteam.attacks.megex import Megex
from redteam.client.oracle import Explained, InProcess, Refused, Withheld, Wrapper
from redteam.explanations.cosines import TURNS, cosine
from redteam.explanations.explainable import judged, network, served, victim
from redteam.explanations.floors import floors
from redteam.explanations.people import drawn_task, for_people
from redteam.explanations.search import DISPLAY, FLAT, searched
from redteam.house import House
from redteam.judging import Record
from redteam.learning import Means, Training, answers_of
from redteam.measures import accuracy, clean
from redteam.pools import SHAPE, Pools, arguments
from serving import build, logs, settings

DEFAULT = Path(__file__).parents[2] / "configs/gateway/default.yaml"
VICTIMS = ("mnist", "fashion")
SEEDS = (0, 1, 2)
FEW, USUAL, MANY = 5_000, 10_000, 100_000
BUDGETS = (USUAL, FEW, MANY)
RATION = 500
"""Rows that a client is explained a day by configs/gateway/explain.yaml."""
TRAINING = Training(steps=1500)
"""The same for every clone."""
SHOWN: Sequence[Defense] = (DISPLAY,)
DOORS: Mapping[str, Sequence[Defense]] = {"plain": (), "displayed": SHOWN}
LOOKED, BATCH = 300, 32
"""Rows of a thief that the detectors see; rows of a timed call."""
KNOWN = {"pool": DISPLAY.cell, "gamma": DISPLAY.gamma}


@dataclass(frozen=True, slots=True)
class Arm:
    """One thief: its attack, whether maps are displayed alone, and how many rows are explained at most.

    ``budgets`` beside the usual one that it is tried with; ``once``, with the first seed and victim alone.
    """

    attack: Dfme
    defended: bool = False
    ration: int | None = None
    budgets: tuple[int, ...] = ()
    once: bool = False


TOP: dict[str, Any] = {"classes": "top", "training": TRAINING}
MATCHED: dict[str, Any] = {"classes": "none", "training": TRAINING, "matching": 1.0}
CURVE = (FEW, MANY)
ARMS = {
    "dfme": Arm(Dfme(training=TRAINING), budgets=CURVE),
    "dfme, diverse": Arm(Dfme(training=TRAINING, diversity=1.0), budgets=(MANY,)),
    "top class": Arm(Megex(**TOP), budgets=CURVE),
    "matched": Arm(Megex(**MATCHED), budgets=CURVE),
    "display, magnitudes": Arm(Megex(**TOP), defended=True, budgets=(MANY,)),
    "display, shares": Arm(Megex(**TOP, gamma=DISPLAY.gamma), defended=True, budgets=(MANY,)),
    "dfme, diverse, ten probes": Arm(
        Dfme(training=TRAINING, diversity=1.0, directions=10), budgets=(MANY,)
    ),
    "display, ten probes": Arm(Megex(**TOP, directions=10), defended=True, budgets=(MANY,)),
    "display, jitter and prior": Arm(
        Megex(**TOP, jitters=2, reading="prior", defenses=(DISPLAY,)),
        defended=True,
        budgets=(MANY,),
    ),
    "display, matched": Arm(Megex(**MATCHED, **KNOWN), defended=True, budgets=(MANY,)),
    "display and budget, matched": Arm(
        Megex(**MATCHED, **KNOWN), defended=True, ration=RATION, once=True
    ),
    "any class, logit": Arm(Megex(training=TRAINING, explains="logit"), once=True),
    "any class, probability": Arm(Megex(training=TRAINING, explains="probability"), once=True),
}
"""All but ``dfme`` spread their pictures over the classes; those ``matched`` go beyond the paper."""


@dataclass(frozen=True, slots=True)
class Case:
    """One theft."""

    victim: str
    arm: str
    budget: int
    seed: int

    @property
    def words(self) -> str:
        return f"{self.victim}, {self.arm}, {self.budget}, {self.seed}"


@dataclass(frozen=True, slots=True)
class Bench:
    """Where pictures are and cells are kept, and how much is run."""

    pools: Pools
    work: Path
    seeds: Sequence[int] = SEEDS
    victims: Sequence[str] = VICTIMS
    budgets: Sequence[int] = BUDGETS
    arms: dict[str, Arm] = field(default_factory=lambda: ARMS)


class Rationed(Wrapper):
    """Withholds explanations after ``left`` rows, as a gateway does whose clients have a budget of them."""

    def __init__(self, oracle: InProcess, left: int) -> None:
        super().__init__(oracle)
        self._left = left

    def query(self, inputs: Tensor) -> Tensor:
        return self._oracle.query(inputs)

    def explain(self, inputs: Tensor, classes: Tensor | None = None) -> Explained:
        if len(inputs) > self._left:
            raise Withheld("the budget of explanations is spent")
        self._left -= len(inputs)
        return super().explain(inputs, classes)


def main() -> None:
    """Run what is not yet in the work folder, and write everything."""
    parser = arguments(__doc__, "explanations")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=VICTIMS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logs.configure("error")
    bench = Bench(Pools(given.data), given.work, given.seeds, given.victims, given.budgets)
    try:
        found = run(bench)
    except ConfigError as error:
        parser.error(str(error))
    given.out.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")


def run(bench: Bench) -> dict[str, Any]:
    """All thefts, and what is measured of the maps themselves."""
    bench.work.mkdir(parents=True, exist_ok=True)
    thefts = [stolen(bench, case) for case in track(list(cases(bench)), "explanations")]
    found = {
        "training": TRAINING.model_dump(),
        "defense": DISPLAY.model_dump(),
        "ration": RATION,
        "thefts": thefts,
        "cosines": angles(),
        "people": [for_people(bench.pools, name, SHOWN) for name in bench.victims]
        + [drawn_task(SHOWN)],
        "search": searched(bench.pools, bench.victims),
        "alarm": alarms(bench.seeds),
        "latency": latency(bench.pools),
    }
    return found | {"floors": floors(found)}


def cases(bench: Bench) -> Iterator[Case]:
    """Every arm at the usual budget first, then the curves."""
    for budget, seed, name in product(bench.budgets, bench.seeds, bench.victims):
        first = (seed, name) == (bench.seeds[0], bench.victims[0])
        for arm_name, arm in bench.arms.items():
            if budget in (USUAL, *arm.budgets) and (first or not arm.once):
                yield Case(name, arm_name, budget, seed)


def stolen(bench: Bench, case: Case) -> Record:
    """One clone: its accuracy, its agreement with the victim, and what it cost; kept in the work folder."""
    arm = bench.arms[case.arm]
    told = f"{case.words} {arm.attack.model_dump_json()} {arm.ration} {DISPLAY if arm.defended else ''}"
    path = bench.work / f"{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"
    if path.is_file():
        kept: Record = orjson.loads(path.read_bytes())
        return kept
    test, labels = judged(bench.pools, case.victim)
    named = clean(victim(case.victim), test).argmax(dim=1)
    of = arm.attack.explains if isinstance(arm.attack, Megex) else "log_probability"
    oracle = InProcess(served(case.victim, of, SHOWN if arm.defended else ()))
    asked = oracle if arm.ration is None else Rationed(oracle, arm.ration)
    generator = torch.Generator().manual_seed(case.seed)
    loot = arm.attack.run(asked, Means(test[:0]), budget=case.budget, generator=generator)
    answers = answers_of(loot.clone, test)
    record = {
        "victim": case.victim,
        "arm": case.arm,
        "budget": case.budget,
        "seed": case.seed,
        "rows": oracle.rows,
        "floats": oracle.floats,
        "clone_accuracy": round(accuracy(answers, labels), 4),
        "agreement": round(accuracy(answers, named), 4),
    }
    path.write_bytes(orjson.dumps(record))
    return record


ANGLES: Sequence[tuple[str, Dfme, Defense | None]] = (
    ("one probe", Dfme(), None),
    ("ten probes", Dfme(directions=10), None),
    ("one probe, by the activation's slope", Megex(classes="top", recheck=0), FLAT),
    ("ten probes, by the activation's slope", Megex(classes="top", directions=10, recheck=0), FLAT),
    ("any class, logit", Megex(explains="logit", recheck=0), None),
    ("any class, log-probability", Megex(recheck=0), None),
    ("any class, probability", Megex(explains="probability", recheck=0), None),
    ("top class, log-probability", Megex(classes="top", recheck=0), None),
    ("any class, as gradients", Megex(recheck=0), DISPLAY),
    ("top class, as a gradient", Megex(classes="top", reading="gradient", recheck=0), DISPLAY),
    ("mean of 8 jittered", Megex(classes="top", reading="gradient", jitters=8, recheck=0), DISPLAY),
    (
        "learned prior",
        Megex(classes="top", reading="prior", defenses=(DISPLAY,), recheck=0),
        DISPLAY,
    ),
    ("magnitudes on one probe", Megex(classes="top", recheck=0), DISPLAY),
    ("magnitudes on ten probes", Megex(classes="top", directions=10, recheck=0), DISPLAY),
    ("shares on one probe", Megex(classes="top", gamma=DISPLAY.gamma, recheck=0), DISPLAY),
    (
        "shares on ten probes",
        Megex(classes="top", directions=10, gamma=DISPLAY.gamma, recheck=0),
        DISPLAY,
    ),
)
"""Ways to the gradient: through maps as they are, through one that tells nothing, and through the display."""


def angles() -> list[Record]:
    """Mean cosines with the true gradient of 784 numbers, on the MNIST model."""
    found = []
    for name, attack, defense in ANGLES:
        of = attack.explains if isinstance(attack, Megex) else "log_probability"
        oracle = InProcess(served("mnist", of, () if defense is None else (defense,)))
        turns = TURNS if isinstance(attack, Megex) and attack.reading == "prior" else 1
        value = cosine(attack, oracle, network("mnist"), shape=SHAPE, turns=turns)
        found.append({"gradient": name, "displayed": defense == DISPLAY, "cosine": round(value, 4)})
    return found


def alarms(seeds: Sequence[int]) -> list[Record]:
    """Rows of the generator until the shipped default is alarmed: MEGEX's own, one at a time."""
    found = []
    for seed in seeds:
        own = settings.load(DEFAULT, ["secret=the secret of the bench", "store=memory://"])
        house = House(build.load_pipeline("mnist", own.models["mnist"], own), request=1)
        thief = InProcess(served("mnist"), recording=True)
        attack = Megex(classes="top", training=Training(steps=1))
        generator = torch.Generator().manual_seed(seed)
        attack.run(thief, Means(torch.zeros(0, *SHAPE)), budget=LOOKED, generator=generator)
        with suppress(Refused):
            house.account("thief").query(torch.cat(thief.sent))
        found.append({"seed": seed, "rows_to_alarm": house.alarmed.get("thief")})
    return found


def latency(pools: Pools, rounds: int = 60) -> Record:
    """Milliseconds of explanations of a batch: without and with the display, in turns; medians."""
    pictures = judged(pools, "mnist")[0][:BATCH]
    doors = {name: InProcess(served("mnist", defenses=d)) for name, d in DOORS.items()}
    spent: dict[str, list[float]] = {name: [] for name in doors}
    for _ in range(rounds):
        for name, door in doors.items():
            started = time.perf_counter()
            door.explain(pictures)
            spent[name].append(1000 * (time.perf_counter() - started))
    plain, displayed = (median(spent[name]) for name in DOORS)
    return {
        "rows": BATCH,
        "plain_ms": round(plain, 2),
        "displayed_ms": round(displayed, 2),
        "added": round(displayed / plain - 1, 4),
    }


if __name__ == "__main__":
    main()
