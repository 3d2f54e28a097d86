"""A house is a gateway in process: its accounts are alarmed, denied and found as a campaign."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mantlet.data import Images
from redteam.client.oracle import Refused
from redteam.detection.streams import as_inputs
from redteam.glyphs import glyphs
from redteam.house import EVERY, House
from serving.campaigns import Search
from serving.pipeline import Pipeline
from serving.policy import Level
from tests.redteam.grid.test_chains import shipped


@pytest.fixture(scope="module")
def letters() -> Tensor:
    return as_inputs(glyphs(2 * EVERY))


def denying(pipeline: Pipeline) -> Pipeline:
    """The shipped chain where an alarm is a refusal."""
    levels = (Level(name="normal"), Level(name="out", alarm=True, campaign=True, deny_s=1e9))
    return Pipeline(
        pipeline.victim, pipeline.detectors, levels=levels, alpha=pipeline.alpha, secret=b"s" * 16
    )


def test_honest_rows_are_answered_and_nobody_is_noticed(digits: Images) -> None:
    house = House(shipped())
    account = house.account("honest")
    answers = account.query(torch.from_numpy(digits.x[:100]))

    assert answers.shape == (100, 10)
    assert (account.rows, account.floats, house.rows) == (100, 1000, 100)
    assert (house.alarmed, house.denied) == ({}, {})


def test_a_thief_is_denied_after_the_alarm_and_its_rows_are_counted(letters: Tensor) -> None:
    house = House(denying(shipped()), request=8)
    account = house.account("thief")
    with pytest.raises(Refused, match="'thief' is denied"):
        account.query(letters[:800])

    assert house.alarmed["thief"] <= house.denied["thief"] == account.rows == house.rows
    assert account.rows < 200


def test_a_patrol_marks_accounts_that_steal_together(letters: Tensor) -> None:
    """Each of them is silent by itself: nothing but the campaign can alarm it."""
    quiet = denying(shipped())
    quiet = Pipeline(
        quiet.victim, quiet.detectors, levels=quiet.policy.levels, alpha=1e-300, secret=b"s" * 16
    )
    found, missed = House(quiet, Search(), request=8), House(quiet, None, request=8)
    for house in (found, missed):
        accounts = [house.account(f"thief {number}") for number in range(8)]
        for number, rows in enumerate(torch.split(letters[:EVERY], 8)):
            accounts[number % 8].query(rows)

    assert found.looks == 1
    assert len(found.alarmed) == 8
    assert missed.alarmed == {}
    with pytest.raises(Refused):
        found.account("thief 0").query(letters[EVERY : EVERY + 8])
    assert np.isfinite(missed.account("thief 0").query(letters[EVERY : EVERY + 8]).numpy()).all()
