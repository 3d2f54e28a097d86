"""The detector of distances, on the shipped MNIST model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from detectors.distances import Distances
from mantlet.data import Images
from mantlet.errors import CalibrationError
from mantlet.plugin import Setup
from mantlet.types import Prediction
from serving.victims.torch import TorchVictim
from tests.helpers import SETUP, TinyVictim, query, rows


def fitted(inputs: torch.Tensor, answer: Prediction, detector: Distances) -> Distances:
    detector.load(Setup(SETUP.device, SETUP.secret, detector.calibrate(query(inputs), answer)))
    return detector


@pytest.fixture(scope="module", params=["features", "inputs"])
def detector(
    request: pytest.FixtureRequest, plain_victim: TorchVictim, digits: Images
) -> Distances:
    benign = torch.from_numpy(digits.x[:3000])
    return fitted(benign, plain_victim.predict(benign), Distances(space=request.param))


def flags(detector: Distances, victim: TorchVictim, inputs: torch.Tensor) -> np.ndarray:
    """(B,) of one client who sends ``inputs``."""
    scores = detector.score(query(inputs), victim.predict(inputs)).double().numpy()
    return detector.watch(detector.initial(), scores, 0.0)[1][:, 0]


@pytest.fixture(scope="module")
def honest(digits: Images) -> torch.Tensor:
    return torch.from_numpy(digits.x[3000:4500])


def stepped(inputs: torch.Tensor, seed: int) -> torch.Tensor:
    """A step of 0.1 a pixel, up or down by chance, as a synthetic row is made of another."""
    steps = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(seed)).sign()
    return (inputs + 0.1 * steps).clamp(0, 1)


def test_honest_digits_are_flagged_as_often_as_was_set(
    detector: Distances, plain_victim: TorchVictim, honest: torch.Tensor
) -> None:
    assert 0.005 < flags(detector, plain_victim, honest).mean() < 0.04


def test_rows_made_from_others_are_flagged(
    detector: Distances, plain_victim: TorchVictim, honest: torch.Tensor
) -> None:
    sent = torch.cat([honest[:150], stepped(honest[:150], 0)])
    said = flags(detector, plain_victim, sent)

    assert said[:150].mean() < 0.05
    assert said[150:].mean() > 0.7


def test_a_camera_of_less_contrast_changes_little(
    plain_victim: TorchVictim, digits: Images, honest: torch.Tensor
) -> None:
    """Distances shrink with contrast; as shares of each other they do not."""
    benign = torch.from_numpy(digits.x[:3000])
    answer = plain_victim.predict(benign)
    share, absolute = (
        flags(fitted(benign, answer, Distances(relative=one)), plain_victim, 0.7 * honest).mean()
        for one in (True, False)
    )

    assert share < 0.05
    assert absolute > 0.15


def test_one_class_alone_is_flagged_no_more(
    detector: Distances, plain_victim: TorchVictim, digits: Images
) -> None:
    inputs = torch.from_numpy(digits.x[3000:])
    ones = inputs[plain_victim.predict(inputs).values.argmax(dim=1) == 1][:600]

    assert flags(detector, plain_victim, ones).mean() < 0.06


def test_bursts_and_retries_are_no_evidence(
    detector: Distances, plain_victim: TorchVictim, honest: torch.Tensor
) -> None:
    frames = honest[:40].repeat_interleave(20, dim=0)
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    trembling = (frames + 0.02 * noise).clamp(0, 1)
    retried = torch.cat([honest[:150], honest[:150]])

    assert flags(detector, plain_victim, trembling).mean() < 0.03
    assert flags(detector, plain_victim, retried)[150:].mean() < 0.05


def test_without_features_the_inputs_are_measured() -> None:
    inputs = rows(600)
    answer = replace(TinyVictim().predict(inputs), features=None, logits=None)

    assert fitted(inputs, answer, Distances()).score(query(inputs), answer).shape == (600, 17)


def test_nothing_is_said_of_a_class_that_was_hardly_seen() -> None:
    inputs = rows(400)
    answer = TinyVictim().predict(inputs)
    one = torch.zeros_like(answer.values)
    one[:, 0] = 1.0
    other = replace(answer, values=one.roll(1, dims=1))
    detector = fitted(inputs, replace(answer, values=one), Distances())
    scores = detector.score(query(inputs), other).double().numpy()

    assert not detector.watch(detector.initial(), scores, 0.0)[1].any()


def test_too_few_rows_are_refused() -> None:
    inputs = rows(199)

    with pytest.raises(CalibrationError, match=r"199 benign rows are too few .* at least 200"):
        Distances().calibrate(query(inputs), TinyVictim().predict(inputs))


def test_a_memory_of_other_settings_starts_anew() -> None:
    first = Distances().initial()

    assert Distances().fits(first)
    assert not Distances(classes=20, partners=24).fits(first)
    assert not Distances(dimensions=8).fits(first)
