"""What training with Isolation and Induction is worth: the same thieves at a trained and a plain victim.

Run as: python -m redteam.ini --data FOLDER --work FOLDER --out docs/results/ini.json, and again with
--ablate for the terms one at a time, or with --family fashion and a file of its own.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor, nn

from defenses.ini import making
from defenses.ini.card import with_protection
from defenses.ini.recipe import IniRecipe
from defenses.mad import Mad
from mantlet import architectures, simplex, weights
from mantlet.data import Images
from mantlet.errors import ConfigError
from mantlet.plugin import Setup
from mantlet.types import Kind, Prediction, Query
from redteam import learning
from redteam.detection.streams import as_inputs
from redteam.learning import Means, Training, Transfer
from redteam.measures import accuracy, clone_scores, rounded, spread
from redteam.pools import Pools, arguments

RECIPES = Path(__file__).parents[1] / "configs/recipes"
TRAINED_ON = {"mnist": "fashion", "fashion": "mnist"}
"""The foreign family that training sees, by the victim's own; recipes are named after that."""
UNSEEN = ("notmnist", "omniglot")
"""Families that neither training nor any choice of its settings has seen."""
TUNED_ON = "cifar"
"""The family by which settings were chosen."""
OWN = "own"
"""The control: held-out rows of the victim's own kind."""
BUDGET = 10_000
Record = Mapping[str, Any]
TERMS = ("gamma", "delta", "epsilon")
SHORT: Mapping[str, object] = {
    "settings": {"width": 8},
    "warm_start": None,
    "epochs": 1,
    "drawn_rows": 9_000,
}
"""What every arm of the ablation has in place of the recipe's."""
ARMS: Mapping[str, Mapping[str, object]] = {
    "none": {"defended": False},
    **{f"{kept} only": {term: 0.0 for term in TERMS if term != kept} for kept in TERMS},
    "all": {},
}
"""What differs from the short recipe: no term, one at a time, and all of them."""
ABLATED_WITH = ("notmnist", TUNED_ON)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where pictures and weights are, and how much is run."""

    pools: Pools
    work: Path
    recipe: IniRecipe
    seeds: Sequence[int] = (0, 1, 2)
    budget: int = BUDGET
    training: Training = field(default_factory=Training)
    say: Callable[[str], None] = print
    family: str = "mnist"

    def recipe_of(self, name: str) -> IniRecipe:
        """``ini`` is the recipe, ``plain`` its baseline, others are `ARMS` of the short one."""
        whole: Mapping[str, Mapping[str, object]] = {"ini": {}, "plain": {"defended": False}}
        changes = {**SHORT, **ARMS[name]} if name in ARMS else whole[name]
        return IniRecipe.model_validate({**self.recipe.model_dump(), **changes})

    def weights_of(self, name: str) -> Path:
        """The file of a victim, its recipe's output where that is there.

        What is not there yet is trained into the work folder.
        """
        if name == "ini" and self.recipe.output.is_file():
            return self.recipe.output
        path = self.work / f"{name.replace(' ', '-')}.safetensors"
        if not path.is_file():
            self.say(f"training {name}")
            recipe = self.recipe_of(name)
            foreign = [self.pools.path(TRAINED_ON[self.family])] if recipe.defended else []
            making.make(recipe, self.pools.path(self.family), foreign, output=path)
        return path

    def victim(self, name: str) -> nn.Module:
        """The network of that file, ready to answer."""
        recipe = self.recipe_of(name)
        network = architectures.build(recipe.architecture, recipe.settings)
        weights.load_into(network, self.weights_of(name), recipe.architecture)
        return network.eval()

    def pool(self, family: str) -> Tensor:
        """All pictures of a family, or the held-out rows of the victim's own."""
        if family == OWN:
            held = self.pools.pictures(self.family, "train")[-self.recipe.holdout :]
            return as_inputs(held)
        return _all_of(self.pools, family)


@lru_cache(maxsize=3)
def _all_of(pools: Pools, family: str) -> Tensor:
    return as_inputs(np.concatenate([pools.pictures(family, s) for s in ("train", "test")]))


def main() -> None:
    """Run what is not yet in the work folder, and write the records and the card."""
    parser = arguments(__doc__, "ini")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--family", choices=TRAINED_ON, default="mnist")
    parser.add_argument("--ablate", action="store_true", help="the terms one at a time, no more")
    asked = parser.parse_args()
    try:
        recipe = IniRecipe.load(RECIPES / f"{asked.family}-ini.yaml")
        bench = Bench(Pools(asked.data), asked.work, recipe, asked.seeds, family=asked.family)
        asked.work.mkdir(parents=True, exist_ok=True)
        found = {"ablation": ablated(bench)} if asked.ablate else measure(bench)
    except ConfigError as error:
        parser.error(str(error))
    other = orjson.loads(asked.out.read_bytes()) if asked.out.is_file() else {}
    asked.out.write_bytes(orjson.dumps({**other, **found}, option=orjson.OPT_INDENT_2) + b"\n")
    beside = bench.recipe.output.with_suffix(".md")
    if not asked.ablate and beside.is_file():
        beside.write_text(with_protection(beside.read_text("utf-8"), table(found)), "utf-8")


def measure(bench: Bench) -> dict[str, Any]:
    """Everything: ``victims`` (accuracy, entropy, latency), and ``records``, a line a clone."""
    grid = [(family, labels) for family in (*UNSEEN, TUNED_ON, OWN) for labels in (False, True)]
    return {
        "weights": weights.fingerprint(bench.weights_of("ini")),
        "clone": _clone_of(bench),
        "milliseconds": _milliseconds(bench),
        **_robbed(bench, ("plain", "ini"), grid),
    }


def _clone_of(bench: Bench) -> Record:
    return {"architecture": "lenet", "width": 8, **bench.training.model_dump()}


def ablated(bench: Bench) -> dict[str, Any]:
    """Every arm of `ARMS` by the same short recipe, robbed of soft answers: ``recipe``, ``victims``, ``records``."""
    grid = [(family, False) for family in ABLATED_WITH]
    steps = max(1, bench.training.steps // 5)
    short = replace(bench, training=bench.training.model_copy(update={"steps": steps}))
    return {
        "recipe": dict(SHORT),
        "clone": _clone_of(short),
        **_robbed(short, tuple(ARMS), grid),
    }


def _robbed(
    bench: Bench, names: Sequence[str], grid: Sequence[tuple[str, bool]]
) -> dict[str, list[Record]]:
    """Victims, and a clone of each by every family, answers as labels or not, and seed."""
    pools, family = bench.pools, bench.family
    test = Images(pools.pictures(family, "test") / np.float32(255), pools.labels(family, "test"))
    about, records = [], []
    for name in names:
        victim = _Asked(bench, name, test)
        about.append(_about(victim))
        for kind, labels in grid:
            records += [_stolen(victim, (kind, labels, seed)) for seed in bench.seeds]
    return {"victims": about, "records": records}


class _Asked:
    """A victim and its answers, each asked for once: thieves draw from the same rows."""

    def __init__(self, bench: Bench, name: str, test: Images) -> None:
        assert test.y is not None
        self.bench, self.name = bench, name
        self._network = bench.victim(name)
        self.inputs, self.labels = torch.from_numpy(test.x), torch.from_numpy(test.y)
        self.clean = learning.answers_of(self._network, self.inputs)
        self._known: dict[str, Tensor] = {}

    def answers(self, family: str) -> Tensor:
        """(n, C) to all rows of a family."""
        if family not in self._known:
            pool = self.bench.pool(family)
            self._known[family] = learning.answers_of(self._network, pool)
        return self._known[family]


def _about(victim: _Asked) -> Record:
    """Test accuracy and, of every foreign family, the mean entropy in nats and the largest share of a label."""
    found: dict[str, Any] = {"victim": victim.name}
    found["accuracy"] = round(accuracy(victim.clean, victim.labels), 4)
    for family in (*UNSEEN, TUNED_ON):
        foreign = victim.answers(family)
        found[family] = {
            "entropy": round(float(torch.special.entr(foreign).sum(dim=1).mean()), 3),
            "top_probability": round(float(foreign.amax(dim=1).mean()), 3),
            "one_label": round(float(foreign.argmax(dim=1).bincount().max() / len(foreign)), 3),
        }
    victim.bench.say(f"{victim.name}: {found}")
    return found


def _stolen(victim: _Asked, which: tuple[str, bool, int]) -> Record:
    """One clone of a victim: Knockoff Nets with random rows of a family."""
    bench, name = victim.bench, victim.name
    family, labels, seed = which
    key = f"{name}-{family}-{'label' if labels else 'soft'}-{seed}".replace(" ", "_")
    kept = bench.work / f"{key}-{weights.fingerprint(bench.weights_of(name))[:12]}.json"
    if kept.is_file():
        known: Record = orjson.loads(kept.read_bytes())
        return known
    generator = torch.Generator().manual_seed(seed)
    pool = bench.pool(family)
    drawn = torch.randperm(len(pool), generator=generator)[: bench.budget]
    rows, answers = pool[drawn], victim.answers(family)[drawn]
    if labels:
        answers = simplex.one_hot(answers.argmax(dim=1), answers.shape[1])
    clone = Means(rows).network(generator)
    learning.train(clone, Transfer(rows, answers), bench.training, generator)
    scores = clone_scores(learning.answers_of(clone, victim.inputs), victim.clean, victim.labels)
    record = {
        "victim": name,
        "attack": "knockoff",
        "attacker_data": family,
        "label_only": labels,
        "budget": len(rows),
        "seed": seed,
        **rounded(scores, 4),
    }
    kept.write_bytes(orjson.dumps(record))
    bench.say(f"{key}: {record['clone_accuracy']}")
    return record


def _milliseconds(bench: Bench, rounds: int = 100) -> dict[str, float]:
    """Medians of a batch of 32 at the plain victim, at the trained one, and at the plain one behind MAD.

    They are asked in turn, so that a busy machine is busy for all. MAD has a surrogate of the victim's kind.
    """
    plain, trained = bench.victim("plain"), bench.victim("ini")
    mad = Mad(architecture=bench.recipe.architecture, settings=bench.recipe.settings)
    batch = bench.pool(OWN)[:32]
    mad.load(Setup(torch.device("cpu"), b"bench"))
    query = Query(["client"] * len(batch), batch, 0.0)

    def behind_mad() -> None:
        values = learning.answers_of(plain, batch)
        mad.apply(Prediction(values.clone(), Kind.PROBABILITIES), query, {})

    asked: dict[str, Callable[[], object]] = {
        "plain": lambda: learning.answers_of(plain, batch),
        "ini": lambda: learning.answers_of(trained, batch),
        "plain, mad": behind_mad,
    }
    spent: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(rounds):
        for name, ask in asked.items():
            started = time.perf_counter()
            ask()
            spent[name].append(1000 * (time.perf_counter() - started))
    return {name: round(median(times), 3) for name, times in spent.items()}


def table(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Rows of a table: the clone's accuracy at the plain and at the trained victim, by what a thief has."""
    rows = []
    for family in (*UNSEEN, TUNED_ON, OWN):
        for labels in (False, True):
            cells = {"thief's pictures": family, "answers": "labels" if labels else "soft"}
            for name in ("plain", "ini"):
                scores = [
                    record["clone_accuracy"]
                    for record in found["records"]
                    if (record["victim"], record["attacker_data"], record["label_only"])
                    == (name, family, labels)
                ]
                middle, deviation = spread(scores)
                about = f"± {deviation:.3f}" if len(scores) > 1 else "(one seed)"
                cells[f"clone of {name}"] = f"{middle:.3f} {about}"
            rows.append(cells)
    return rows


if __name__ == "__main__":
    main()
