"""The mark as it leaves the gateway."""

import torch

from defenses.watermark.carriers import MarkKey
from defenses.watermark.defense import Watermark
from defenses.watermark.detection import detect
from mantlet.plugin import Setup
from mantlet.types import Kind, Prediction, Query

SECRET = b"a secret of the tests"


def test_what_leaves_is_found_with_the_secret_and_the_name_of_the_model() -> None:
    defense = Watermark()
    defense.load(Setup(torch.device("cpu"), SECRET, model="digits"))
    clean = torch.zeros(16, 1, 28, 28)
    query = Query(["ann"] * 16, torch.zeros(16, 8), 0.0)
    served = defense(Prediction(clean, Kind.IMAGES), query, {}).values

    assert detect(served, MarkKey(SECRET, "digits")).p < 1e-6
    assert detect(served, MarkKey(SECRET, "clothes")).p > 1e-3
    assert detect(clean, MarkKey(SECRET, "digits")).p > 0.01
