"""A thief of a plan sends what its settings say, and never more than its budget."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mantlet.data import Images
from redteam.client.accounts import Rotate, Split
from redteam.client.oracle import Refused
from redteam.grid import plan
from redteam.grid.plan import Attacker, Cell
from redteam.grid.thief import attack_of, oracle_of
from redteam.house import House
from serving.pipeline import Pipeline
from serving.victims.torch import TorchVictim

CELL = Cell("mnist", "none", "thief", 60, 0, 1)


@pytest.fixture
def rows(digits: Images) -> Tensor:
    return torch.from_numpy(digits.x[:200])


def attacker(**settings: Any) -> Attacker:
    return Attacker.model_validate({"attack": "knockoff", **settings})


def asked(victim: TorchVictim, rows: Tensor, who: Attacker) -> House:
    """The house after a thief asked for eight rows at a time until it could not."""
    house = House(Pipeline(victim), request=8)
    generator = torch.Generator().manual_seed(0)
    oracle = oracle_of(who, house, CELL, stock=rows, generator=generator)
    parts = iter(torch.split(rows, 8))
    with suppress(Refused):
        while True:
            oracle.query(next(parts))
    return house


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accounts": 3, "spread": "split"},
        {"accounts": 3},
        {"cover": 0.5},
        {"repeats": 3, "jitter": 0.1},
    ],
    ids=str,
)
def test_every_row_that_is_sent_counts_against_the_budget(
    shipped_victim: TorchVictim, rows: Tensor, settings: dict[str, Any]
) -> None:
    house = asked(shipped_victim, rows, attacker(**settings))

    assert 40 < house.rows <= CELL.budget


def test_accounts_are_used_in_turn_or_one_by_one(shipped_victim: TorchVictim, rows: Tensor) -> None:
    split = asked(shipped_victim, rows, attacker(accounts=3, spread="split"))
    rotate = asked(shipped_victim, rows, attacker(accounts=3, spread="rotate"))
    generator = torch.Generator()
    kinds = [
        type(oracle_of(who, split, CELL, stock=None, generator=generator)._oracle)  # type: ignore[attr-defined]
        for who in (attacker(accounts=2, spread="split"), attacker(accounts=2))
    ]

    assert len(split.memories) == 3
    assert len(rotate.memories) == 1
    assert kinds == [Split, Rotate]


def test_a_thief_may_ask_once_about_a_changed_picture(
    shipped_victim: TorchVictim, rows: Tensor
) -> None:
    told = []
    for who in (attacker(), attacker(jitter=0.3)):
        house, generator = House(Pipeline(shipped_victim)), torch.Generator().manual_seed(0)
        told.append(oracle_of(who, house, CELL, stock=None, generator=generator).query(rows[:8]))

    assert told[0].shape == told[1].shape
    assert not torch.equal(*told)


def test_the_attack_sends_requests_of_the_plan_and_trains_as_it_says(root: Path) -> None:
    found = plan.load(root / "configs/bench/smoke.yaml", {"work": root})
    plain = attack_of(found, attacker(), "none")
    own = attack_of(found, attacker(attack={"type": "knockoff", "request": 5}), "none")
    padded = attack_of(found, attacker(cover=0.5, repeats=2), "none")
    many = attack_of(found, attacker(accounts=4, spread="split"), "none")

    assert plain.training == found.training
    assert plain.request == found.request
    assert own.request == 5
    assert padded.request == found.request // 4
    assert many.request == 4 * found.request
    assert attack_of(found, attacker(), "default").request == 2


def test_who_undoes_a_defense_is_told_its_settings_and_no_key(root: Path) -> None:
    found = plan.load(root / "configs/bench/smoke.yaml", {"work": root})
    attack = attack_of(found, attacker(undo="inverse"), "reverse_sigmoid")
    (treatment,) = attack.treatments

    assert treatment.type == "inverse"
    assert treatment.defense == found.defenses["reverse_sigmoid"].defenses[0]  # type: ignore[attr-defined]
