"""What every attack keeps to, whatever its settings: the budget, repeatability, and its loot."""

import pytest
import torch

from mantlet.registry import type_name
from redteam.attacks import BUILTIN, known
from redteam.attacks.attack import Attack
from tests.redteam.thieves import QUICK, Teller, bands, stolen

SMALL = {"batch": 5, "seeds": 20, "substitute": QUICK, "adaptive": True, "request": 16}


def small(kind: type[Attack]) -> Attack:
    settings = {name: value for name, value in SMALL.items() if name in kind.model_fields}
    return kind.model_validate(settings | {"type": type_name(kind), "training": QUICK})


def test_every_attack_is_found_by_its_type_and_takes_no_other_settings() -> None:
    assert len(known()) == len(BUILTIN)
    assert all(kind.model_config["extra"] == "forbid" for kind in BUILTIN)
    assert all(kind.model_config["frozen"] for kind in BUILTIN)


@pytest.mark.parametrize("kind", BUILTIN)
def test_exactly_the_budget_is_sent_in_requests_of_the_size_that_was_set(
    kind: type[Attack],
) -> None:
    oracle = Teller()
    loot = stolen(small(kind), oracle, budget=97)

    assert oracle.rows == loot.rows == 97
    assert max(map(len, oracle.queries)) <= 16
    assert loot.ended == "budget spent"


@pytest.mark.parametrize("kind", BUILTIN)
def test_labels_alone_a_refusal_and_a_second_run_bring_the_same_loot(kind: type[Attack]) -> None:
    loots = [
        stolen(
            small(kind),
            Teller(lambda inputs: bands(inputs).argmax(dim=1), rows_until_denied=60),
            budget=500,
        )
        for _ in range(2)
    ]
    first, again = (loot.transfer for loot in loots)

    assert loots[0].ended.startswith("denied after")
    assert first is not None
    assert again is not None
    assert 0 < len(first) <= 60
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.answers, again.answers)
    for one, other in zip(loots[0].clone.parameters(), loots[1].clone.parameters(), strict=True):
        assert torch.equal(one, other)
