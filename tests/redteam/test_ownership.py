"""The ownership bench on a small scale: cases, thieves, records, and going on where it stopped."""

from pathlib import Path

import orjson
import pytest
import torch

from mantlet.data import Images
from redteam import measures, ownership
from redteam.learning import Transfer
from redteam.ownership import RATES, THIEVES, USUAL, Case, House, Size, Thief
from serving.victims.torch import TorchVictim

TINY = Size(rows=60, steps=4, wrong_keys=3)


@pytest.fixture
def house(digits: Images, shipped_victim: TorchVictim) -> House:
    assert digits.y is not None
    inputs = torch.from_numpy(digits.x[:200])
    answers = torch.nn.functional.one_hot(torch.from_numpy(digits.y[:200]), 10).float()
    pools = {"mnist": inputs[:60], "notmnist": inputs[60:120]}
    return House(shipped_victim, pools, Transfer(inputs, answers), Transfer(inputs, answers), TINY)


def thief(house: House, rate: float = 0.3) -> tuple[Thief, list[torch.Tensor]]:
    """One who asks about the pool, and what was asked."""
    asked: list[torch.Tensor] = []
    dawn = ownership.marking(rate, b"a key of the tests")

    def ask(rows: torch.Tensor) -> torch.Tensor:
        asked.append(rows)
        return ownership.answered(house.victim, dawn, rows)

    generator = torch.Generator().manual_seed(0)
    return Thief(ask, house.pools["mnist"], house.labelled, TINY.steps, generator), asked


@pytest.mark.parametrize("name", THIEVES)
def test_every_thief_tells_what_it_sent_and_brings_a_clone_home(house: House, name: str) -> None:
    means, asked = thief(house)
    clone, sent = THIEVES[name](means)

    assert torch.equal(sent, torch.cat(asked))
    assert len(sent) == 60
    assert clone(sent).shape == (60, 10)


def test_a_voting_thief_asks_five_copies_of_a_fifth_and_a_moving_one_moves_them(
    house: House,
) -> None:
    pictures = house.pools["mnist"][:12]
    (_, noisy), (_, moved) = (THIEVES[name](thief(house)[0]) for name in ("voting", "moving"))
    copies = moved.view(5, 12, 1, 28, 28)

    assert (noisy.view(5, 12, 1, 28, 28) - pictures).abs().mean() < 0.1
    assert torch.equal(copies[0], pictures)
    assert torch.equal(copies[1][..., 1:], pictures[..., :-1])
    assert not torch.equal(copies[2], copies[1])


def test_suspected_clients_alone_are_marked(house: House) -> None:
    rows = house.test.inputs
    clean = measures.clean(house.victim, rows)
    marked = ownership.answered(house.victim, ownership.marking(0.3, b"a key of the tests"), rows)
    quiet = ownership.answered(house.victim, ownership.marking(0.0, b"a key of the tests"), rows)

    assert (marked.argmax(1) != clean.argmax(1)).any()
    assert torch.equal(quiet, clean)


def test_the_grid_has_every_rate_and_every_thief() -> None:
    cases = list(ownership.cases(["mnist", "notmnist", "omniglot"], [0, 1]))
    plain = [c.rate for c in cases if (c.pool, c.thief, c.seed) == ("mnist", "plain", 1)]

    assert len(cases) == len(set(cases)) == 2 * (4 + 7 + 2 + 2)
    assert plain == [0.0, *RATES]
    assert {c.thief for c in cases if c.rate == USUAL} == set(THIEVES)


def test_records_have_the_clone_the_controls_and_what_the_mark_cost(house: House) -> None:
    found = ownership.measured(house, Case("mnist", 0.05, "plain", 0))
    models = [(r["model"], r["evidence"]) for r in found]

    assert models == [
        ("clone", "submitted"),
        ("independent", "submitted"),
        ("clone, wrong keys", "submitted"),
        ("clone", "others"),
    ]
    assert all(0 < r["p"] <= 1 for r in found)
    assert all(0 <= r["clone_accuracy"] <= 1 for r in found)
    assert found[0]["changed"] == found[0]["marked"] / found[0]["rows"]
    assert (found[2]["keys"], found[0]["rows"], found[3]["marked"] > 0) == (3, 60, True)


def test_a_bench_goes_on_where_it_stopped(house: House, tmp_path: Path) -> None:
    out = tmp_path / "ownership.json"
    cases = [Case("mnist", rate, "plain", 0) for rate in (0.02, 0.05)]
    ownership.run(house, iter(cases[:1]), out)
    first = orjson.loads(out.read_bytes())
    marked = [*first, {"pool": "mnist", "rate": 0.05, "thief": "plain", "seed": 0, "kept": True}]
    out.write_bytes(orjson.dumps(marked))
    ownership.run(house, iter(cases), out)

    assert len(first) == 4
    assert orjson.loads(out.read_bytes()) == marked


def test_the_same_case_gives_the_same_records(house: House) -> None:
    case = Case("notmnist", 0.05, "sceptical", 1)

    assert ownership.measured(house, case) == ownership.measured(house, case)
