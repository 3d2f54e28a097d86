"""JBDA: doubling rounds, small steps, no row twice; the targeted form goes elsewhere."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mantlet.data import Images
from redteam.attacks.jbda import jbda
from redteam.attacks.transfer import Transfer
from redteam.oracle import InProcess
from serving.pipeline import Pipeline
from serving.victims.torch import TorchVictim

SEEDS = 12


def stolen(victim: TorchVictim, digits: Images, *, targeted: bool) -> tuple[InProcess, Transfer]:
    oracle = InProcess(Pipeline(victim), recording=True)
    seeds = torch.from_numpy(digits.x[:SEEDS])
    generator = torch.Generator().manual_seed(3)
    return oracle, jbda(oracle, seeds, generator=generator, rounds=3, targeted=targeted)


@pytest.mark.parametrize("targeted", [False, True])
def test_every_round_doubles_the_rows_by_a_step_of_a_tenth(
    shipped_victim: TorchVictim, digits: Images, targeted: bool
) -> None:
    oracle, got = stolen(shipped_victim, digits, targeted=targeted)
    new, old = got.inputs[2 * SEEDS :], got.inputs[: 2 * SEEDS]

    assert oracle.rows == len(got.inputs) == 4 * SEEDS
    assert torch.equal(torch.cat(oracle.sent), got.inputs)
    assert len({row.numpy().tobytes() for row in got.inputs}) == 4 * SEEDS
    assert got.inputs.min() >= 0
    assert got.inputs.max() <= 1
    assert float((new - old).abs().amax()) == pytest.approx(0.1, abs=1e-6)


def test_the_targeted_form_sends_other_rows(shipped_victim: TorchVictim, digits: Images) -> None:
    plain, targeted = (
        stolen(shipped_victim, digits, targeted=targeted)[1].inputs for targeted in (False, True)
    )

    assert torch.equal(plain[:SEEDS], targeted[:SEEDS])
    assert not torch.equal(plain[SEEDS:], targeted[SEEDS:])


def test_progress_tells_how_many_rows_were_sent() -> None:
    class Fixed:
        rows = floats = 0

        def query(self, inputs: Tensor) -> Tensor:
            return torch.eye(10)[np.arange(len(inputs)) % 10]

    told: list[tuple[int, int]] = []
    jbda(
        Fixed(),
        torch.zeros(10, 1, 28, 28),
        generator=torch.Generator().manual_seed(0),
        rounds=3,
        progress=lambda done, total: told.append((done, total)),
    )

    assert told == [(10, 40), (20, 40), (40, 40)]
