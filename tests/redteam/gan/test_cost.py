"""Defenses are timed in turns with the bare victim, so that a busy machine slows both."""

import torch

from mantlet.plugin import Setup
from redteam.gan.cost import ROUNDS, ROWS, alternating
from serving.pipeline import Pipeline
from tests.helpers import TinyGenerator


def test_every_pipeline_is_asked_as_often_in_whole_batches() -> None:
    victims = {name: TinyGenerator() for name in ("bare", "defended")}
    took = alternating({name: Pipeline(victim) for name, victim in victims.items()}, 8)

    assert list(took) == ["bare", "defended"]
    assert all(ms > 0 for ms in took.values())
    for victim in victims.values():
        assert victim.batches == [ROWS] * ROUNDS
    assert Setup(torch.device("cpu"), b"").victim is None
