from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from detectors.foreign import Foreign, Measure
from detectors.rate import Rate
from mantlet.errors import CalibrationError
from mantlet.plugin import Setup
from mantlet.types import Prediction, State
from serving import calibration
from tests.helpers import SETUP, Bright, TinyVictim, grey, query, rows

LEARNED = {
    "foreign": {"energy.threshold": np.float32(0.5), "means": np.arange(6.0).reshape(2, 3)},
    "other/name": {"a": np.ones(2)},
}

ORDER = ("residual", "mahalanobis", "energy")
"""Measures in the order of a calibration."""


def test_what_was_written_is_read_with_the_weights_it_was_made_for(tmp_path: Path) -> None:
    path = tmp_path / "deep/c.safetensors"
    calibration.write(path, LEARNED, "f" * 64)  # type: ignore[arg-type]  # a numpy number will do
    learned, made_for = calibration.read(path)

    assert made_for == "f" * 64
    assert learned.keys() == LEARNED.keys()
    for name, arrays in LEARNED.items():
        assert learned[name].keys() == arrays.keys()
        for field, array in arrays.items():  # type: ignore[attr-defined]
            assert np.array_equal(learned[name][field], array)
            assert learned[name][field].shape == np.shape(array)


def test_a_transposed_array_is_written_as_it_reads(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3).T
    calibration.write(tmp_path / "c", {"d": {"a": array}}, "")

    assert np.array_equal(calibration.read(tmp_path / "c")[0]["d"]["a"], array)


def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no such file; run: mantlet calibrate CONFIG"):
        calibration.read(tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 100])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)

    with pytest.raises(CalibrationError, match=r"is damaged: .*make it anew"):
        calibration.read(tmp_path / "c")


def test_a_file_that_says_no_weights_was_made_for_none(tmp_path: Path) -> None:
    save_file({"foreign/a": np.ones(1)}, tmp_path / "c")

    assert calibration.read(tmp_path / "c")[1] == ""


def test_two_rows_of_three_are_fitted_and_the_others_measured() -> None:
    """Rows go through the victim in parts; what is learned is as of the whole."""
    victim = TinyVictim()
    inputs = rows(calibration.BATCH * 3 + 30)
    detector = Foreign()
    learned = calibration.learn(victim, (Rate(), detector), inputs.numpy())
    fitted = inputs[torch.arange(len(inputs)) % 3 != 2]
    whole = detector.calibrate(query(fitted), TinyVictim().predict(fitted))

    assert victim.batches == [256, 256, 20, 256, 10]
    assert learned.keys() == {"foreign"}
    assert learned["foreign"].keys() == {*whole, "tolerated"}
    for field, array in whole.items():
        assert np.allclose(learned["foreign"][field], array, atol=1e-5)


class Blank(Bright):
    """Speaks of the first hundred rows of a client, and abstains from then on."""

    def initial(self) -> State:
        return {"rows": np.zeros(1)}

    def watch(self, state: State, rows: np.ndarray, at: float) -> tuple[State, np.ndarray]:
        number = state["rows"] + np.arange(len(rows))
        scores = np.where(number[:, None] < 100, rows, np.nan)
        return {"rows": state["rows"] + len(rows)}, scores


def measured(detector: Bright, inputs: torch.Tensor) -> float:
    (bound,) = calibration.learn(TinyVictim(), (detector,), inputs.numpy())[detector.name][
        "tolerated"
    ]
    return float(bound)


def test_what_an_honest_client_may_reach_is_above_the_mean_of_rows_that_were_not_fitted() -> None:
    """Every third row is dark, and those are the held-out ones."""
    inputs = grey(*[0.9, 0.9, 0.1] * 2000)

    assert 2.5 * 0.1 < measured(Bright(), inputs) < 2.5 * 0.13
    assert 1.5 * 0.1 < measured(Bright(margin=1.5), inputs) < 1.5 * 0.13


def test_few_rows_make_a_patient_detector() -> None:
    """The bound grows with the uncertainty about the benign mean, and stays between its limits."""
    bounds = [measured(Bright(), grey(*[0.05] * count)) for count in (30, 300, 3000, 30_000)]

    assert bounds == sorted(set(bounds), reverse=True)
    assert bounds[0] <= 1.0
    assert bounds[-1] > 2.5 * 0.05
    assert measured(Bright(), grey(*[0.9] * 300)) == 1.0
    assert measured(Bright(margin=1.0), grey(*[0.0] * 150_000)) == 1e-4


def test_the_bound_holds_for_honest_rows_that_were_not_seen() -> None:
    generator = torch.Generator().manual_seed(1)
    shades = 0.3 * torch.rand(60_000, generator=generator) ** 3
    bound = measured(Bright(margin=1.0), grey(*shades[:3000].tolist()))

    assert bound > float(shades.mean())
    assert bound < 0.2


def test_rows_are_asked_as_honest_clients_of_a_bounded_number_would() -> None:
    """A score that is given for the first hundred rows of a client only: 200 of 1,000 are heard."""
    heard = measured(Blank(margin=2.0), grey(*[0.2] * 3000))
    certain = measured(Bright(margin=2.0), grey(*[0.2] * 600))

    assert heard == pytest.approx(certain, abs=1e-6)


def test_a_client_of_the_hardest_class_may_reach_what_that_class_does() -> None:
    """Every tenth row is bright, and the victim names those otherwise."""

    class Naming(TinyVictim):
        def predict(self, inputs: torch.Tensor) -> Prediction:
            bright = (inputs.mean(dim=(1, 2, 3)) > 0.5).long()
            values = torch.nn.functional.one_hot(bright, 5).float()
            return replace(super().predict(inputs), values=values)

    inputs = grey(*[0.05] * 9, 0.6).repeat(1000, 1, 1, 1)
    learned = calibration.learn(Naming(), (Bright(),), inputs.numpy())["bright"]

    assert 0.6 < learned["tolerated"] < 0.7


def test_honest_clients_are_drawn_from_the_rows() -> None:
    inputs = grey(*[0.2, 0.4] * 500)
    learned = calibration.learn(TinyVictim(), (Bright(),), inputs.numpy())
    means = calibration.honest_means(TinyVictim(), [Bright()], inputs.numpy(), learned)["bright"]

    assert means.shape == (calibration.CLIENTS, 1)
    assert np.allclose(means, 0.3, atol=0.02)


def test_a_detector_that_never_spoke_is_not_trusted() -> None:
    class Silent(Bright):
        def watch(self, state: State, rows: np.ndarray, at: float) -> tuple[State, np.ndarray]:
            return state, np.full_like(rows, np.nan)

    assert measured(Silent(), grey(*[0.2] * 300)) == 1.0


def test_a_tier_with_rows_of_its_own_gets_a_bound_of_its_own() -> None:
    victim, detectors = TinyVictim(), (Rate(), Bright(), Bright(name="new"))
    learned = calibration.learn(victim, detectors[:2], grey(*[0.05] * 900).numpy())
    enrolled = calibration.enrol(victim, detectors, grey(*[0.15] * 900).numpy(), learned, "partner")
    detector = Bright()
    detector.load(Setup(SETUP.device, SETUP.secret, enrolled["bright"]))

    assert enrolled.keys() == {"bright"}, "one that has learned nothing has no tiers"
    assert "tolerated.partner" not in learned["bright"]
    assert detector.tolerated("default") == learned["bright"]["tolerated"]
    assert detector.tolerated("partner") > 2 * detector.tolerated("default")
    assert detector.tolerated("another") == detector.tolerated("default")


def bound_of_a_tier(*shades: float, honest: float = 0.001) -> float:
    """What clients may reach whose tier enrolled with such rows, where all others send ``honest`` ones."""
    victim, detectors = TinyVictim(), (Bright(),)
    learned = calibration.learn(victim, detectors, grey(*[honest] * 3000).numpy())
    enrolled = calibration.enrol(victim, detectors, grey(*shades).numpy(), learned, "own")
    return float(enrolled["bright"]["tolerated.own"][0])


def test_a_tier_that_drifts_may_reach_what_it_does_at_its_worst() -> None:
    """The last tenth of the rows is bright; in another order no stretch is."""
    mixed = ([0.02] * 9 + [0.5]) * 99  # one less than what is heard as a class of its own

    assert bound_of_a_tier(*sorted(mixed)) > 0.49
    assert bound_of_a_tier(*mixed) < 0.3


def test_a_tier_never_makes_its_clients_suspect() -> None:
    tight, others = [0.0] * 100_000, 0.2

    assert bound_of_a_tier(*tight, honest=others) == measured(Bright(), grey(*[others] * 3000))


@pytest.mark.parametrize("measures", [("mahalanobis",), ("energy", "residual")])
def test_a_tier_enrols_with_some_of_the_measures_that_were_calibrated(
    measures: tuple[Measure, ...],
) -> None:
    """The others keep what any client may reach."""
    victim = TinyVictim()
    learned = calibration.learn(victim, (Foreign(),), rows(600).numpy())
    chosen, other = Foreign(measures=measures), 0.5 * rows(600).numpy()
    own = calibration.enrol(victim, (chosen,), other, learned, "own")["foreign"]
    detector = calibration.taught(chosen, own)
    wider = dict(zip(measures, detector.tolerated("own"), strict=True))
    default = dict(zip(ORDER, own["tolerated"], strict=True))

    assert all(wider[m] >= default[m] for m in measures)
    for measure, bound in zip(ORDER, own["tolerated.own"], strict=True):
        assert bound == wider.get(measure, default[measure])


def test_a_tier_that_enrols_anew_with_fewer_measures_keeps_its_bounds_of_the_others() -> None:
    victim, dark = TinyVictim(), 0.2 * rows(600).numpy()
    learned = calibration.learn(victim, (Foreign(), Bright()), rows(600).numpy())
    every = calibration.enrol(victim, (Foreign(), Bright()), dark, learned, "own")
    fewer = (Foreign(measures=("mahalanobis",)),)
    again = calibration.enrol(victim, fewer, rows(600).numpy(), every, "own")
    first, then = (
        dict(zip(ORDER, e["foreign"]["tolerated.own"], strict=True)) for e in (every, again)
    )
    default = dict(zip(ORDER, learned["foreign"]["tolerated"], strict=True))

    assert first["residual"] > default["residual"]
    assert (then["residual"], then["energy"]) == (first["residual"], first["energy"])
    assert then["mahalanobis"] < first["mahalanobis"], "what is measured anew is as it is now"
    assert again["bright"] is every["bright"]


def test_a_tier_of_few_scores_is_one_stretch() -> None:
    """A hundred scores or less say nothing of a tenth of them."""
    short, long = bound_of_a_tier(*[0.0] * 199), bound_of_a_tier(*[0.0] * 1000)

    assert short < 0.08
    assert 0.04 < long < 0.08


def test_the_bound_of_a_tier_is_written_and_read(tmp_path: Path) -> None:
    own = {"bright": {"tolerated": np.ones(1), "tolerated.partner": np.zeros(1)}}
    calibration.write(tmp_path / "c", own, "")

    assert calibration.read(tmp_path / "c")[0]["bright"].keys() == own["bright"].keys()


def test_a_victim_that_shows_nothing_can_be_learned_from() -> None:
    class Bare(TinyVictim):
        def predict(self, inputs: torch.Tensor) -> Prediction:
            return replace(super().predict(inputs), logits=None, features=None)

    learned = calibration.learn(Bare(), (Foreign(),), rows(300).numpy())

    fields = {field.partition(".")[0] for field in learned["foreign"]}

    assert fields == {"residual", "near", "measures", "tolerated"}
