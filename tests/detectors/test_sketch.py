"""A sketch keeps like rows of several clients, in little memory, and says nothing by itself."""

import numpy as np
import pytest
import torch

from detectors.sketch import Sketch
from mantlet.data import Images
from mantlet.errors import CalibrationError
from mantlet.plugin import Setup
from mantlet.types import State
from tests.helpers import SETUP, TinyVictim, query, rows

VICTIM = TinyVictim()


def learned(detector: Sketch, inputs: torch.Tensor) -> dict[str, np.ndarray]:
    return dict(detector.calibrate(query(inputs), VICTIM.predict(inputs[:, :, :4, :4])))


@pytest.fixture(scope="module")
def sketch(digits: Images) -> Sketch:
    detector = Sketch()
    own = learned(detector, torch.from_numpy(digits.x[:2000]))
    detector.load(Setup(SETUP.device, SETUP.secret, own))
    return detector


def kept(detector: Sketch, inputs: torch.Tensor) -> State:
    scores = detector.score(query(inputs), VICTIM.predict(inputs[:, :, :4, :4]))
    return detector.update(detector.initial(), scores.double().numpy(), 0.0)[0]


def test_like_rows_of_two_clients_are_kept_together(sketch: Sketch, digits: Images) -> None:
    inputs = torch.from_numpy(digits.x[2000:4000])
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0)).sign()
    first, second = kept(sketch, inputs), kept(sketch, (inputs + 0.1 * noise).clamp(0, 1))
    both = np.intersect1d(first["rank"], second["rank"], return_indices=True)
    code, scale = first["code"].astype(np.float32), first["scale"].astype(np.float32)
    gap = np.linalg.norm(code[both[1]] - second["code"][both[2]], axis=1) / scale[both[1]]

    assert len(first["rank"]) == 64  # of 2,000
    assert (gap < 0.3).sum() >= 16


def test_it_keeps_few_bytes_and_all_rows_of_a_small_client(sketch: Sketch, digits: Images) -> None:
    state = kept(sketch, torch.from_numpy(digits.x[2000:2040]))
    held = state["rank"] < 2**32 - 1

    assert sum(array.nbytes for array in state.values()) < 4_000
    assert held.sum() >= 38  # cells are small
    assert (state["scale"][held] > 0).all()
    assert not state["code"][~held].any()


def test_a_row_sent_again_is_kept_once(sketch: Sketch, digits: Images) -> None:
    state = kept(sketch, torch.from_numpy(digits.x[2000:2001].repeat(50, axis=0)))

    assert (state["rank"] < 2**32 - 1).sum() == 1


def test_another_secret_chooses_other_rows(sketch: Sketch, digits: Images) -> None:
    other = Sketch()
    own = learned(other, torch.from_numpy(digits.x[:2000]))
    other.load(Setup(SETUP.device, b"quite another secret", own))
    inputs = torch.from_numpy(digits.x[2000:4000])
    ours, theirs = (kept(one, inputs)["code"][:, 0].tolist() for one in (sketch, other))

    assert len(set(ours) & set(theirs)) < 32


def test_what_another_calibration_or_secret_kept_is_not_compared(
    sketch: Sketch, digits: Images
) -> None:
    own = learned(Sketch(), torch.from_numpy(digits.x[:2000]))
    moved, other, small = Sketch(), Sketch(), Sketch(rows=32)
    moved.load(Setup(SETUP.device, b"quite another secret", own))
    other.load(Setup(SETUP.device, SETUP.secret, learned(Sketch(), rows(400, shape=(1, 28, 28)))))
    small.load(Setup(SETUP.device, SETUP.secret, own))
    state = kept(sketch, torch.from_numpy(digits.x[2000:2040]))

    assert sketch.fits(state)
    assert not any(one.fits(state) for one in (moved, other, small, Sketch()))


def test_it_never_alarms(sketch: Sketch) -> None:
    assert sketch.enforces
    _, suspicion, alarm = sketch.update(sketch.initial(), np.ones((5, 26)), 0.0)

    assert not suspicion.any()
    assert not alarm.any()


def test_without_a_calibration_nothing_is_kept() -> None:
    detector = Sketch()
    state = kept(detector, rows(20))

    assert not detector.enforces
    assert (state["rank"] == 2**32 - 1).all()


def test_a_rarer_chance_is_a_smaller_radius(sketch: Sketch) -> None:
    radii = [sketch.radius(chance) for chance in (1e-9, 1e-7, 1e-5, 1.0)]

    assert radii == sorted(radii)
    assert 0 < radii[0] < 0.2
    assert radii[-1] == 0.5


def test_so_near_as_the_radius_says_honest_rows_come_as_seldom_as_it_says(
    sketch: Sketch, digits: Images
) -> None:
    inputs = torch.from_numpy(digits.x[2000:6000])
    scores = sketch.score(query(inputs), VICTIM.predict(inputs[:, :, :4, :4])).numpy()
    scale, code = scores[:, 1], scores[:, 2:]
    gap = np.linalg.norm(code[:2000, None] - code[None, 2000:], axis=2)
    near = gap / np.minimum(scale[:2000, None], scale[2000:])

    assert 1e-6 < (near < sketch.radius(5e-6)).mean() < 1.5e-5


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [(rows(100), "too few"), (torch.full((300, 1, 4, 4), 0.5), "'own'.* all the same")],
)
def test_traffic_that_teaches_nothing_is_refused(inputs: torch.Tensor, problem: str) -> None:
    with pytest.raises(CalibrationError, match=problem):
        learned(Sketch(name="own"), inputs)


def test_a_calibration_of_more_dimensions_is_refused() -> None:
    own = learned(Sketch(dimensions=12), rows(400))

    with pytest.raises(CalibrationError, match="12 dimensions"):
        Sketch(dimensions=6).load(Setup(SETUP.device, SETUP.secret, own))
