"""Another project's attacks, those of the Adversarial Robustness Toolbox, on a gateway over HTTP.

``python -m tests.benchmarks.art --data FOLDER --out docs/results/art.json`` runs its KnockoffNets (random
strategy, soft answers) and its CopycatCNN (labels), with letters from notMNIST, against the undefended MNIST
victim and against the embedded default, whose victim is trained with InI. Ten minutes, and it goes on where it stopped;
``--smoke`` takes one.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from art.attacks.extraction import CopycatCNN, KnockoffNets
from art.estimators.classification import BlackBoxClassifier, PyTorchClassifier
from torch import Tensor, nn

from mantlet.data import Images
from mantlet.plugin import Setup
from redteam import measures
from redteam.client.oracle import Oracle, Refused
from redteam.client.over_http import OverHttp
from redteam.learning import Means, seeded
from redteam.pools import Pools
from serving.victims.torch import TorchVictim
from tests.e2e.harness import GUARDED, MODELS, TIERS, gateway

ATTACKS: Mapping[str, Callable[..., Any]] = {
    "art-knockoff": lambda **how: KnockoffNets(**how, use_probability=True, verbose=False),
    "art-copycat": CopycatCNN,
}
UNTRAINED = GUARDED["victim"] | {"weights": str(MODELS / "mnist-lenet.safetensors")}
"""The same network without a training against theft."""
DEFENSES: Mapping[str, Mapping[str, Any]] = {"none": {"victim": UNTRAINED}, "default": GUARDED}
STEPS, BATCH = 1500, 64
"""Updates of every clone, whatever the budget, as our own attacks make them."""
KEY = ("defense", "attack", "budget")
Theft = tuple[int, str, str, int]
"""Seed, defense, attack, budget."""


@dataclass(frozen=True)
class Size:
    """What is run: budgets, seeds, and how many rows judge a clone."""

    budgets: tuple[int, ...] = (1000, 5000)
    seeds: int = 3
    judged: int = 10_000
    steps: int = STEPS
    defenses: tuple[str, ...] = tuple(DEFENSES)

    def thefts(self) -> Iterator[Theft]:
        """Seed by seed: a run that is cut off has the first one whole."""
        return product(range(self.seeds), self.defenses, ATTACKS, self.budgets)


SMOKE = Size(budgets=(300,), seeds=1, judged=1000, steps=150)


def main() -> None:
    """Run all and write the records, in the form of docs/results/protection.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the pictures")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    pools = Pools(arguments.data)
    letters = pools.pictures("notmnist", "train").astype(np.float32) / 255
    digits = pools.pictures("mnist", "test").astype(np.float32) / 255
    judged = Images(digits, pools.labels("mnist", "test"))
    torch.set_num_threads(1)
    records = orjson.loads(arguments.out.read_bytes()) if arguments.out.is_file() else []
    for record in run(letters, judged, SMOKE if arguments.smoke else Size(), records):
        records.append(record)
        sys.stdout.write(orjson.dumps(record).decode() + "\n")
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_bytes(orjson.dumps(records, option=orjson.OPT_INDENT_2) + b"\n")


def run(
    pool: np.ndarray, judged: Images, size: Size, known: Sequence[Mapping[str, Any]] = ()
) -> Iterator[dict[str, Any]]:
    """A record for every theft that is not among the ``known`` ones; each is by an account of its own."""
    done = {tuple(record[name] for name in ("seed", *KEY)) for record in known}
    thefts = [theft for theft in size.thefts() if theft not in done]
    if not thefts:
        return
    inputs = torch.from_numpy(judged.x[: size.judged])
    labels = torch.from_numpy(judged.y[: size.judged])
    clean = {name: _clean(DEFENSES[name], inputs) for name in {theft[1] for theft in thefts}}
    config = {
        "identity": {"open": False},
        "tiers": TIERS,
        "models": {name: DEFENSES[name] for name in size.defenses},
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        gateway(Path(folder), config, clients=len(thefts)) as running,
    ):
        for seed, defense, name, budget in thefts:
            with OverHttp(running.url, defense, key=running.new_key()) as oracle:
                clone = stolen(name, oracle, pool, budget, seed, size.steps)
            bare = defense == "none"  # what a defense costs honest clients, the grid measures
            yield {
                "victim": "mnist",
                "defense": defense,
                "attack": name,
                "attacker_data": "foreign",
                "budget": budget,
                "seed": seed,
                **_scores(clone, inputs, clean[defense], labels),
                "benign_accuracy": (
                    round(measures.accuracy(clean[defense], labels), 5) if bare else None
                ),
                "l1": 0.0 if bare else None,
                "added_ms": 0.0 if bare else None,
                "rows_until_denied": oracle.rows if clone is None else None,
            }


def _clean(model: Mapping[str, Any], inputs: Tensor) -> Tensor:
    """(n, 10) what the victim behind the defenses answers."""
    settings = {name: value for name, value in model["victim"].items() if name != "type"}
    victim = TorchVictim(**settings)
    victim.load(Setup(torch.device("cpu"), b"a secret of the benchmark"))
    answers = victim.predict(inputs).values
    victim.close()
    return answers


def stolen(
    name: str, oracle: Oracle, pool: np.ndarray, budget: int, seed: int, steps: int = STEPS
) -> nn.Module | None:
    """The clone that an attack of the toolbox makes; none where the gateway denies it."""
    generator = torch.Generator().manual_seed(seed)
    clone = Means(torch.from_numpy(pool[:1])).network(generator)
    thief = PyTorchClassifier(
        clone,
        nn.CrossEntropyLoss(),
        pool.shape[1:],
        10,
        torch.optim.SGD(clone.parameters(), 0.02, momentum=0.9, weight_decay=5e-4),
    )
    target = BlackBoxClassifier(
        lambda rows: _scored(oracle.query(torch.from_numpy(rows))), pool.shape[1:], 10
    )
    attack = ATTACKS[name](
        classifier=target,
        batch_size_fit=BATCH,
        batch_size_query=32,
        nb_epochs=max(1, steps * BATCH // budget),
        nb_stolen=budget,
    )
    np.random.seed(seed)  # noqa: NPY002  # the toolbox draws from the global generator
    try:
        with seeded(generator):
            attack.extract(pool, thieved_classifier=thief)
    except Refused:
        return None
    return clone.eval()


def _scored(answers: Tensor) -> np.ndarray:
    """(B, 10) as the toolbox wants them, of labels too."""
    if answers.ndim == 1:
        answers = nn.functional.one_hot(answers, 10).float()
    scores: np.ndarray = answers.numpy()
    return scores


def _scores(
    clone: nn.Module | None, inputs: Tensor, clean: Tensor, labels: Tensor
) -> dict[str, float | None]:
    if clone is None:
        return {"clone_accuracy": None, "agreement": None}
    scores = measures.clone_scores(measures.probabilities(clone, inputs), clean, labels)
    return {name: round(scores[name], 5) for name in ("clone_accuracy", "agreement")}


if __name__ == "__main__":
    main()
