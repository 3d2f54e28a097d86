"""Uniform noise."""

import torch

from redteam.attacks.noise import noise
from redteam.oracle import InProcess
from serving.pipeline import Pipeline
from tests.helpers import TinyVictim


def test_it_sends_as_many_rows_as_it_may_all_uniform() -> None:
    oracle = InProcess(Pipeline(TinyVictim()))
    got = noise(oracle, (1, 4, 4), budget=600, generator=torch.Generator().manual_seed(0))

    assert oracle.rows == 600
    assert got.inputs.shape == (600, 1, 4, 4)
    assert abs(float(got.inputs.mean()) - 0.5) < 0.02
    assert abs(float(got.inputs.var()) - 1 / 12) < 0.005
