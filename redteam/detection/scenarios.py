"""Who sends what in the detection bench: every honest and every hostile stream of a victim and a seed.

Honest rows come from the test split alone; the calibration and the victim never saw them. A
development run keeps off all of that: its honest rows are those held out for the calibration, and of
foreign families it knows only the training rows of those in `SEEN` and `TUNED`.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mantlet.types import Victim
from redteam.attacks.attack import Attack
from redteam.attacks.dfme import Dfme
from redteam.attacks.jbda import Jbda
from redteam.attacks.jbda_tr import JbdaTr
from redteam.attacks.noise import Noise
from redteam.client.oracle import InProcess
from redteam.detection import streams
from redteam.detection.streams import Device, Pictures, Stream
from redteam.learning import Means, Training
from redteam.pools import SHAPE, Pools
from serving.pipeline import Pipeline

SEEN = {"mnist": "fashion", "fashion": "mnist"}
"""The foreign family that detectors of a victim may be fitted to."""
TUNED = "cifar"
"""The family that settings may be tuned on."""
NEVER_SEEN = ("notmnist", "omniglot")
"""Families that no fit and no tuning ever saw."""
HELD_OUT = slice(55_000, 60_000)
"""Rows of the training split that victims are not trained on."""
DEVICES = 20
ENROLLED = 1_000
"""Rows of a client's own kind that it enrols with."""
ACCOUNTS = 64
SPLIT_ROWS = 6_400
HONEST_BEFORE = 10_000
UNUSED = Training(steps=1)
"""Of a clone that nobody looks at: the bench wants the rows that an attack sends."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is sent: honest clients a condition, their rows, thieves, their rows, runs of an attack."""

    clients: int = 67
    rows: int = 2_000
    thieves: int = 20
    stolen: int = 2_000
    runs: int = 3
    honest_before: int = HONEST_BEFORE
    seeds_of_jbda: int = 150
    rounds_of_jbda: int = 6
    rounds_of_campaign: int = 7
    simulated: int = 20_000


FULL = Size()
SMALL = Size(
    clients=8,
    rows=300,
    thieves=3,
    stolen=300,
    runs=1,
    honest_before=600,
    rounds_of_jbda=3,
    rounds_of_campaign=3,
    simulated=1_000,
)


@dataclass(frozen=True)
class Scenario:
    """All streams of one victim and one seed, made when they are asked for.

    Attacks that decide themselves what to send are run against ``victim`` and kept in ``folder``.
    """

    name: str
    victim: Victim
    pools: Pools
    folder: Path
    seed: int
    size: Size = FULL
    development: bool = False

    @cached_property
    def honest(self) -> Mapping[str, Callable[[], Stream]]:
        """Honest streams by condition. In those that end in ``enrolled``, clients have tiers."""
        found: dict[str, Callable[[], Stream]] = {
            "natural": lambda: streams.benign(self._own, **self._crowd("natural")),
            "one class": lambda: streams.one_class(
                self._own, self._labels, **self._crowd("one class")
            ),
        }
        clients = self.size.clients
        for condition, count in self._enrolled.items():
            make = partial(self._of_condition, condition, self._own, clients, self.size.rows)
            tiers = tuple(f"{condition} {client % count}" for client in range(clients))
            found[condition] = make
            found[f"{condition}, enrolled"] = partial(_with_tiers, make, tiers)
        return found

    def enrolment(self) -> Iterator[tuple[str, np.ndarray]]:
        """Tiers with rows of their own, (n, 1, 28, 28) float32, made from the held-out ones."""
        pictures = self.pools.pictures(self.name, "train")[HELD_OUT]
        for condition, count in self._enrolled.items():
            stream = self._of_condition(condition, pictures, count, ENROLLED)
            for number, order in enumerate(stream.order):
                yield f"{condition} {number}", stream.inputs(order).numpy()

    @property
    def _enrolled(self) -> Mapping[str, int]:
        """Conditions whose clients may enrol, and how many kinds of them there are."""
        devices = min(DEVICES, self.size.clients)
        return {"near duplicates": 1, "slow drift": 2, "other device": devices}

    def _of_condition(self, condition: str, pictures: Pictures, clients: int, rows: int) -> Stream:
        how = self._crowd(condition) | {"clients": clients, "rows": rows}
        if condition == "near duplicates":
            return streams.near_duplicates(pictures, **how)
        if condition == "slow drift":
            return streams.slow_drift(pictures, **how)
        rng = self._rng("devices")
        devices = [Device.drawn(rng) for _ in range(self._enrolled[condition])]
        return streams.other_device(pictures, devices, **how)

    def _crowd(self, what: str) -> dict[str, Any]:
        return {"clients": self.size.clients, "rows": self.size.rows, "rng": self._rng(what)}

    @cached_property
    def hostile(self) -> Mapping[str, Callable[[], Stream]]:
        """Attack streams by name. Thieves that are ``enrolled`` have the tiers of honest clients."""
        found: dict[str, Callable[[], Stream]] = {}
        for family in self.families:
            found[f"knockoff {family}"] = partial(self._knockoff, family)
        found["in-distribution thief"] = self._in_distribution
        found["jbda"] = partial(self._jbda, "jbda", targeted=False)
        found["jbda-tr"] = partial(self._jbda, "jbda-tr", targeted=True)
        found["dfme"] = self._dfme
        found["noise"] = self._noise
        for family in self.unseen:
            for share in (0.5, 0.2, 0.1):
                found[f"knockoff {family}, {share:.0%} of rows"] = partial(
                    self._mixed, family, share
                )
            found[f"knockoff {family}, after honest rows"] = partial(
                self._after, found[f"knockoff {family}"]
            )
        found["jbda, after honest rows"] = partial(self._after, found["jbda"])
        family = self.unseen[0]
        for condition, count in self._enrolled.items():
            tiers = tuple(f"{condition} {thief % count}" for thief in range(self.size.thieves))
            found[f"knockoff {family}, enrolled for {condition}"] = partial(
                _with_tiers, found[f"knockoff {family}"], tiers
            )
        return found

    @cached_property
    def campaigns(self) -> Mapping[str, Callable[[], Stream]]:
        """Attacks dealt to `ACCOUNTS` accounts each; one thief."""
        family = self.unseen[0]
        return {
            f"knockoff {family}": lambda: self._dealt(self._knockoff(family, thieves=1)),
            "jbda": lambda: self._dealt(
                self._jbda("jbda of a campaign", seeds=100, rounds=self.size.rounds_of_campaign)
            ),
            f"knockoff {family}, 10% of rows": lambda: self._diluted(
                self._dealt(self._knockoff(family, thieves=1))
            ),
            "in-distribution thief": lambda: self._dealt(self._in_distribution()),
        }

    @property
    def unseen(self) -> tuple[str, ...]:
        """Families that the detectors were never shown."""
        return (TUNED,) if self.development else NEVER_SEEN

    @property
    def families(self) -> tuple[str, ...]:
        """All foreign families of this run."""
        return (
            (SEEN[self.name], TUNED) if self.development else (SEEN[self.name], TUNED, *NEVER_SEEN)
        )

    def acquaintance(self, attack: str) -> dict[str, str]:
        """As field ``family`` of a record: whether any fit or tuning may have seen a knockoff's pool."""
        known = {SEEN[self.name]: "seen", TUNED: "tuned on"}
        kinds = known | dict.fromkeys(NEVER_SEEN, "never seen")
        found = [kind for family, kind in kinds.items() if f"knockoff {family}" in attack]
        return {"family": found[0]} if found else {}

    def _rng(self, what: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *what.encode()])

    def _generator(self, what: str) -> torch.Generator:
        return torch.Generator().manual_seed(int(self._rng(what).integers(2**31)))

    @cached_property
    def _own(self) -> Pictures:
        """Rows that honest clients send."""
        if self.development:
            return self.pools.pictures(self.name, "train")[HELD_OUT]
        return self.pools.pictures(self.name, "test")

    @cached_property
    def _labels(self) -> np.ndarray:
        if self.development:
            return self.pools.labels(self.name, "train")[HELD_OUT]
        return self.pools.labels(self.name, "test")

    def _foreign(self, family: str) -> Pictures:
        """What a thief has of a family: of the never seen all there is, of others what fits do not use."""
        if family in NEVER_SEEN:
            both = [self.pools.pictures(family, split) for split in ("train", "test")]
            return np.concatenate(both)
        return self.pools.pictures(family, "train" if self.development else "test")[:10_000]

    def _knockoff(self, family: str, *, thieves: int | None = None) -> Stream:
        pool = self._foreign(family)
        rows = min(len(pool), SPLIT_ROWS if thieves else self.size.stolen)
        rng = self._rng(f"knockoff {family}")
        return streams.benign(pool, clients=thieves or self.size.thieves, rows=rows, rng=rng)

    def _in_distribution(self) -> Stream:
        rows = min(len(self._own), max(self.size.stolen, SPLIT_ROWS))
        rng = self._rng("in-distribution thief")
        return streams.benign(self._own, clients=self.size.thieves, rows=rows, rng=rng)

    def _mixed(self, family: str, share: float) -> Stream:
        rows = self.size.stolen
        honest = streams.benign(
            self._own, clients=self.size.thieves, rows=rows, rng=self._rng("mixed")
        )
        rng = self._rng(f"mixed {family} {share}")
        return streams.mixed(self._knockoff(family), honest, share, rng=rng)

    def _after(self, make: Callable[[], Stream]) -> Stream:
        attack = make()
        before = min(self.size.honest_before, len(self._own))
        thieves = len(attack.order)
        honest = streams.benign(
            self._own, clients=thieves, rows=before, rng=self._rng("before the attack")
        )
        return streams.after(honest, replace(attack, order=attack.order[:, :1_000]))

    def _dealt(self, attack: Stream) -> Stream:
        rows = min(SPLIT_ROWS, attack.order.shape[1])
        one = replace(attack, order=attack.order[:1, :rows])
        return streams.split(one, min(ACCOUNTS, rows // 10))

    def _diluted(self, accounts: Stream) -> Stream:
        """Accounts that send honest rows at nine of ten places."""
        clients, rows = accounts.order.shape
        rng = self._rng("diluted campaign")
        honest = streams.benign(self._own, clients=clients, rows=rows, rng=rng)
        return streams.mixed(accounts, honest, 0.1, rng=rng)

    def _jbda(
        self, name: str, *, targeted: bool = False, seeds: int = 0, rounds: int = 0
    ) -> Stream:
        seeds, rounds = seeds or self.size.seeds_of_jbda, rounds or self.size.rounds_of_jbda
        kind = JbdaTr if targeted else Jbda
        return self._kept(name, kind(seeds=seeds, training=UNUSED), seeds * 2 ** (rounds - 1))

    def _dfme(self) -> Stream:
        return self._kept("dfme", Dfme(training=UNUSED), self.size.stolen)

    def _noise(self) -> Stream:
        return self._kept("noise", Noise(training=UNUSED), self.size.stolen)

    def _kept(self, name: str, attack: Attack, budget: int) -> Stream:
        """Every row that the attack sends in some runs; from the folder where they were sent before."""
        told = hashlib.sha256(repr((self.victim.fingerprint, self.size, self.development)).encode())
        for code in sorted(Path(__file__).parents[1].glob("attacks/*.py")):
            told.update(code.read_bytes())
        about = f"{self.name}-{self.seed}-{name}-{told.hexdigest()[:12]}"
        path = self.folder / "attacks" / f"{about}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as file:
                return Stream(file["pool"], file["order"])

        def one(number: int) -> Tensor:
            oracle = InProcess(Pipeline(self.victim), recording=True)
            generator = self._generator(f"{name} {number}")
            pool = streams.as_inputs(self._own) if attack.needs_pool else torch.zeros(0, *SHAPE)
            attack.run(oracle, Means(pool), budget=budget, generator=generator)
            return torch.cat(oracle.sent)

        stream = streams.runs(one, self.size.runs)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, pool=stream.pool, order=stream.order)
        return stream


def _with_tiers(make: Callable[[], Stream], tiers: tuple[str, ...]) -> Stream:
    return replace(make(), tiers=tiers)
