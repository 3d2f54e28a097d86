"""The mark as it leaves the gateway."""

import torch

from defenses.watermark.carriers import MarkKey
from defenses.watermark.defense import Watermark
from defenses.watermark.detection import detect
from mantlet.plugin import Setup
from mantlet.types import Kind, Prediction, Query

SECRET = b"a secret of the tests"


def test_less_of_the_mark_may_be_on_black() -> None:
    picture = torch.zeros(1, 1, 28, 28)
    picture[..., 14:] = 0.5
    query, shares = Query(["ann"], torch.zeros(1, 8), 0.0), []
    for black in (1.0, 0.2):
        defense = Watermark(black=black)
        defense.load(Setup(torch.device("cpu"), SECRET, model="digits"))
        change = defense(Prediction(picture, Kind.IMAGES), query, {}).values - picture
        shares.append(float(change[..., :13].square().sum() / change.square().sum()))

    assert shares[1] < 0.7 * shares[0]


def test_what_leaves_is_found_with_the_secret_and_the_name_of_the_model() -> None:
    defense = Watermark()
    defense.load(Setup(torch.device("cpu"), SECRET, model="digits"))
    clean = torch.zeros(16, 1, 28, 28)
    query = Query(["ann"] * 16, torch.zeros(16, 8), 0.0)
    served = defense(Prediction(clean, Kind.IMAGES), query, {}).values

    assert detect(served, MarkKey(SECRET, "digits")).p < 1e-6
    assert detect(served, MarkKey(SECRET, "clothes")).p > 1e-3
    assert detect(clean, MarkKey(SECRET, "digits")).p > 0.01
