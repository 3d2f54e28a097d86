"""The learned mark as it leaves the gateway."""

from pathlib import Path

import pytest
import torch

from defenses.watermark.carriers import MarkKey
from defenses.watermark.learned import SHIPPED, detect
from defenses.watermark.learned_defense import LearnedWatermark
from mantlet.data import Images
from mantlet.errors import WeightsError
from mantlet.learned_marks import LearnedMark
from mantlet.plugin import Setup
from mantlet.types import Kind, Prediction, Query

SETUP = Setup(torch.device("cpu"), b"a secret of the tests", model="digits")


def test_what_leaves_is_found_with_the_secret_and_the_name_of_the_model(digits: Images) -> None:
    defense, named = LearnedWatermark(), LearnedWatermark(weights=SHIPPED)
    clean = torch.from_numpy(digits.x[:32])
    prediction = Prediction(clean, Kind.IMAGES)
    query = Query(["ann"] * 32, torch.zeros(32, 8), 0.0)
    for one in (defense, named):
        one.load(SETUP)
    served = defense(prediction, query, {}).values
    networks = LearnedMark.load(SHIPPED)

    assert detect(networks, served, MarkKey(SETUP.secret, "digits")).p < 1e-6
    assert detect(networks, served, MarkKey(SETUP.secret, "clothes")).p > 1e-3
    assert torch.equal(served, named(prediction, query, {}).values)
    quality = -10 * (served - clean).square().mean(dim=(1, 2, 3)).log10()
    assert quality.min() >= 38


def test_weights_of_something_else_stop_the_start(root: Path) -> None:
    with pytest.raises(WeightsError, match="do not fit"):
        LearnedWatermark(weights=root / "configs/models/mnist-lenet.safetensors").load(SETUP)
    with pytest.raises(WeightsError, match="pickle"):
        LearnedWatermark(weights=Path("mark.pt")).load(SETUP)
