"""The cost of watching is measured on the shipped fold, and its records say what must hold."""

import numpy as np

from detectors.rate import Rate
from mantlet.data import Images
from redteam.detection import cost, streams
from serving.pipeline import Pipeline
from serving.victims.torch import TorchVictim


def test_it_tells_times_by_history_and_the_bytes_that_are_remembered(
    shipped_victim: TorchVictim, digits: Images
) -> None:
    pictures = (digits.x[:100] * 255).astype(np.uint8)
    crowd = streams.benign(pictures, clients=1, rows=60, rng=np.random.default_rng(0))
    pipeline = Pipeline(shipped_victim, [Rate(rows=130)])
    row, batch, rate = cost.measured(pipeline, crowd, earlier=(10, 140), rounds=3)

    assert row["earlier_rows"] == [10, 140]
    assert row["ratio"] == round(row["fold_us"][1] / row["fold_us"][0], 3)
    # the 130th row is remembered as that of the alarm
    assert row["state_bytes"][1] > row["state_bytes"][0] > 20
    assert min(batch["predict"], batch["score"], batch["fold"]) > 0
    assert rate["what"] == "detector rate"
    assert rate["fold"] > 0
    assert rate["state_bytes"] > 20
