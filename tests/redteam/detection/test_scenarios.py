"""Who sends what: honest rows of one split alone, families kept apart, attacks that are run once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from redteam.detection.scenarios import ACCOUNTS, ENROLLED, NEVER_SEEN, SMALL, Scenario
from redteam.pools import Pools
from serving.victims.torch import TorchVictim

SIZE = replace(SMALL, seeds_of_jbda=20, stolen=200)


@pytest.fixture
def scenario(shipped_victim: TorchVictim, pools: Pools, tmp_path: Path) -> Scenario:
    return Scenario("mnist", shipped_victim, pools, tmp_path, 0, SIZE)


def test_every_honest_condition_has_the_clients_and_rows_of_its_size(scenario: Scenario) -> None:
    assert len(scenario.honest) == 8
    assert {make().order.shape for make in scenario.honest.values()} == {(SIZE.clients, SIZE.rows)}


def test_who_enrols_has_a_tier_and_rows_of_its_own_that_are_held_out(
    scenario: Scenario, pools: Pools
) -> None:
    stream = scenario.honest["other device, enrolled"]()
    rows = dict(scenario.enrolment())
    held_out = (pools.pictures("mnist", "train")[55_000:] / 255).mean(axis=0)
    likeness = [np.corrcoef(x.mean(axis=0).ravel(), held_out.ravel())[0, 1] for x in rows.values()]

    assert len(stream.tiers) == len(stream.order)
    assert set(stream.tiers) <= rows.keys()
    assert {x.shape for x in rows.values()} == {(ENROLLED, 1, 28, 28)}
    assert min(likeness) > 0.9


def test_a_thief_may_have_enrolled_as_an_honest_client_does(scenario: Scenario) -> None:
    tiers = dict(scenario.enrolment()).keys()
    names = [name for name in scenario.hostile if "enrolled" in name]
    streams = [scenario.hostile[name]() for name in names]

    assert names[0] == "knockoff notmnist, enrolled for near duplicates"
    assert len(names) == 3
    for stream in streams:
        assert set(stream.tiers) <= tiers
        assert len(stream.tiers) == len(stream.order)


def test_every_attack_can_be_made(scenario: Scenario) -> None:
    made = {name: make() for name, make in scenario.hostile.items()}

    assert {f"knockoff {family}" for family in NEVER_SEEN} <= made.keys()
    assert made["jbda"].order.shape == (SIZE.runs, 80)
    assert made["jbda, after honest rows"].start == SIZE.honest_before
    assert all(stream.order.max() < len(stream.pool) for stream in made.values())


def test_a_seed_makes_the_same_streams_and_another_seed_others(scenario: Scenario) -> None:
    orders = [
        replace(scenario, seed=seed).hostile["knockoff notmnist"]().order for seed in (0, 0, 1)
    ]

    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_an_attack_that_looks_at_answers_is_run_once(scenario: Scenario) -> None:
    first = scenario.hostile["jbda"]()
    (kept,) = (scenario.folder / "attacks").glob("*-jbda-*.npz")
    np.savez(kept, pool=first.pool[::-1], order=first.order)

    assert np.array_equal(scenario.hostile["jbda"]().pool, first.pool[::-1])


def test_the_rows_of_a_campaign_are_those_of_one_thief(scenario: Scenario) -> None:
    accounts = scenario.campaigns["knockoff notmnist"]()

    assert len(accounts.order) == ACCOUNTS
    assert len(set(accounts.order.ravel().tolist())) == accounts.order.size


def test_development_keeps_off_the_test_split_and_the_never_seen_families(
    scenario: Scenario, pools: Pools
) -> None:
    development = replace(scenario, development=True)
    tests = {row.tobytes() for row in pools.pictures("mnist", "test")}
    sent = development.honest["natural"]().pool

    assert not any(row.tobytes() in tests for row in sent)
    assert not any(family in name for name in development.hostile for family in NEVER_SEEN)


def test_a_knockoff_tells_how_well_its_family_is_known(scenario: Scenario) -> None:
    told = [
        scenario.acquaintance(name)
        for name in ("knockoff fashion", "knockoff omniglot, 20% of rows", "jbda")
    ]

    assert told == [{"family": "seen"}, {"family": "never seen"}, {}]
