"""A generator in place of data: what a turn costs, probes that point up the loss, and replay."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from redteam.attacks.attack import Ledger
from redteam.attacks.data_free import DataFree
from redteam.attacks.dfme import Dfme
from redteam.attacks.maze import Maze
from redteam.learning import seeded
from tests.redteam.thieves import QUICK, Teller, stolen

EMPTY = torch.zeros(0, 1, 28, 28)
KINDS = [Dfme, Maze]


def small(kind: type[DataFree], **settings: Any) -> DataFree:
    return kind(**({"batch": 8, "training": QUICK, "clone_steps": 2} | settings))


@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_sends_pictures_their_probes_and_batches_to_learn_from(kind: type[DataFree]) -> None:
    oracle, attack = Teller(), small(kind, directions=3)
    loot = stolen(attack, oracle, budget=100, pool=EMPTY)  # turns of 48 rows, and 4
    beside = oracle.sent[8:32].view(3, 8, 1, 28, 28)
    apart = (beside - oracle.sent[:8]).flatten(2).norm(dim=2)

    assert oracle.rows == loot.rows == 100
    assert loot.transfer is not None
    assert torch.equal(loot.transfer.inputs, torch.cat([oracle.sent[32:48], oracle.sent[80:96]]))
    assert 0 < float(apart.min()) <= float(apart.max()) <= attack.probe  # tanh shrinks them
    assert oracle.sent.min() >= 0
    assert oracle.sent.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_sends_the_same_rows(kind: type[DataFree]) -> None:
    sent = []
    for seed in (0, 0, 1):
        oracle = Teller()
        stolen(small(kind, directions=1, replay_steps=1), oracle, budget=70, seed=seed, pool=EMPTY)
        sent.append(oracle.sent)

    assert torch.equal(sent[0], sent[1])
    assert not torch.equal(sent[0], sent[2])


def test_a_refusal_midway_leaves_what_was_answered() -> None:
    loot = stolen(small(Dfme), Teller(rows_until_denied=60), budget=500, pool=EMPTY)

    assert loot.ended == "denied after 64 rows"
    assert loot.transfer is not None
    assert len(loot.transfer) == 24  # of 60 rows answered, those of the probes are left out


@pytest.mark.parametrize("replay", [0, 5])
def test_replay_trains_the_substitute_more_and_sends_nothing(replay: int) -> None:
    steps: list[torch.optim.Optimizer] = []
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: steps.append(optimizer))
    oracle = Teller()
    stolen(small(Maze, directions=1, replay_steps=replay), oracle, budget=64, pool=EMPTY)
    hook.remove()
    of_substitute = sum(step is steps[1] for step in steps)

    assert oracle.rows == 64
    assert of_substitute == 2 * (2 + replay)  # of two turns


def test_the_slopes_of_many_probes_point_up_the_disagreement() -> None:
    """Against the true gradient of a victim that is known here: near 1 with a direction a number."""
    generator = torch.Generator().manual_seed(0)
    with seeded(generator):
        victim, clone = (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)) for _ in range(2))

    def cosine(directions: int) -> float:
        attack = small(Dfme, directions=directions, batch=64)
        raw = torch.randn(64, 1, 4, 4, generator=generator)
        oracle = Teller(lambda inputs: torch.softmax(victim(inputs), dim=1).detach())
        ledger = Ledger(oracle, 100_000, classes=3)
        slopes = attack.slopes(clone, ledger, raw, generator)
        variable = raw.clone().requires_grad_()
        pictures = (torch.tanh(variable) + 1) / 2
        answers = torch.softmax(victim(pictures), dim=1)
        loss = attack.disagreement(clone(pictures), answers).mean()
        (true,) = torch.autograd.grad(loss, variable)
        found = nn.functional.cosine_similarity(slopes.flatten(1), true.flatten(1))
        return float(found.mean())

    assert cosine(1) > 0.1
    assert cosine(64) > 0.75
