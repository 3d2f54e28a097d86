"""The detector of foreign queries, on the shipped MNIST model and its calibration."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detectors.evidence import Evidence
from detectors.foreign import CODE, Foreign, Measure
from mantlet.data import Images
from mantlet.errors import CalibrationError
from mantlet.plugin import Setup
from mantlet.types import Prediction
from serving import calibration
from serving.victims.torch import TorchVictim
from tests.helpers import SETUP, TinyVictim, query, rows

ALL: tuple[Measure, ...] = ("residual", "mahalanobis", "energy")


def loaded(learned: Mapping[str, np.ndarray], measures: tuple[Measure, ...] = ALL) -> Foreign:
    detector = Foreign(measures=measures)
    detector.load(Setup(SETUP.device, SETUP.secret, learned))
    return detector


@pytest.fixture(scope="module")
def shipped(root: Path, shipped_victim: TorchVictim) -> Foreign:
    learned, made_for = calibration.read(root / "configs/models/mnist-ini.calibration.safetensors")
    assert made_for == shipped_victim.fingerprint
    file = root / "configs/models/mnist-foreign.safetensors"
    detector = Foreign(classifier=file)
    detector.load(Setup(SETUP.device, SETUP.secret, learned["foreign"]))
    return detector


def flags(detector: Foreign, inputs: torch.Tensor, answer: Prediction) -> torch.Tensor:
    """(B, G) without the code by which rows are compared."""
    return detector.score(query(inputs), answer)[:, : detector.width]


def alarm_after(detector: Foreign, victim: TorchVictim, inputs: torch.Tensor) -> int | None:
    """Rows until the alarm of one client who sends ``inputs``."""
    scores = detector.score(query(inputs), victim.predict(inputs)).double().numpy()
    suspicion = followed(detector, detector.watch(detector.initial(), scores, 0.0)[1])
    return int((suspicion >= 1).argmax()) + 1 if suspicion.max() >= 1 else None


def followed(detector: Foreign, scores: np.ndarray) -> np.ndarray:
    """(B,) what the joint test holds of one client who sends rows of these scores, row by row."""
    test = Evidence((detector.width,), alpha=1e-6)
    _, trail = test.fold(
        test.initial()[None],
        np.zeros(1),
        [range(len(scores))],
        scores,
        detector.tolerated("default"),
    )
    level: np.ndarray = test.suspicion(trail)[:, 0]
    return level


def test_honest_test_digits_never_alarm(
    shipped: Foreign, shipped_victim: TorchVictim, digits: Images
) -> None:
    """The first 3,000 rows of the MNIST test set, as one client sends them."""
    assert alarm_after(shipped, shipped_victim, torch.from_numpy(digits.x[:3000])) is None


def test_noise_alarms_soon(shipped: Foreign, shipped_victim: TorchVictim) -> None:
    after = alarm_after(shipped, shipped_victim, rows(50, shape=(1, 28, 28)))

    assert after is not None
    assert after <= 50


@pytest.mark.parametrize("honest", [0, 2000])
def test_a_thief_of_inverted_digits_alarms_whatever_trust_was_banked(
    shipped: Foreign, shipped_victim: TorchVictim, digits: Images, honest: int
) -> None:
    stream = torch.from_numpy(np.concatenate([digits.x[:honest], 1.0 - digits.x[-60:]]))
    after = alarm_after(shipped, shipped_victim, stream)

    assert after is not None
    assert honest < after <= honest + 50


def test_each_measure_flags_about_the_benign_share_it_was_cut_at(
    shipped: Foreign, shipped_victim: TorchVictim, digits: Images
) -> None:
    """Cut at the 99 % quantile; on other digits each stays below the share it tolerates."""
    inputs = torch.from_numpy(digits.x)
    flagged = flags(shipped, inputs, shipped_victim.predict(inputs)).mean(dim=0).numpy()

    assert ((flagged > 0.002) & (flagged < shipped.tolerated("default"))).all()


@pytest.mark.parametrize("measure", ["residual", "mahalanobis"])
def test_a_distance_alone_tells_noise_from_what_it_learned(measure: Measure) -> None:
    """Benign: points near a plane of the input space; foreign: the whole cube."""
    victim = TinyVictim()
    plane = 0.5 + 0.15 * torch.randn(1000, 3, generator=torch.Generator().manual_seed(1)) @ (
        torch.randn(3, 16, generator=torch.Generator().manual_seed(2))
    )
    benign = plane.view(1000, 1, 4, 4)
    detector = Foreign(measures=(measure,), components=3)
    learned = detector.calibrate(query(benign[:800]), victim.predict(benign[:800]))
    detector.load(Setup(SETUP.device, SETUP.secret, learned))
    foreign = 0.5 + 3.0 * (rows(200) - 0.5)
    honest = flags(detector, benign[800:], victim.predict(benign[800:])).mean()
    flagged = flags(detector, foreign, victim.predict(foreign)).mean()

    assert honest < 0.1
    assert flagged > 0.5


def test_energy_alone_tells_undecided_rows_from_confident_ones() -> None:
    inputs = rows(1000)
    answer = TinyVictim().predict(inputs)
    generator = torch.Generator().manual_seed(1)
    confident = 12.0 * torch.eye(5)[torch.randint(5, (1000,), generator=generator)]
    benign = replace(answer, logits=confident + torch.randn(1000, 5, generator=generator))
    undecided = replace(answer, logits=torch.randn(1000, 5, generator=generator))
    detector = Foreign(measures=("energy",))
    learned = detector.calibrate(query(inputs), benign)
    detector.load(Setup(SETUP.device, SETUP.secret, learned))

    assert flags(detector, inputs, benign).mean() < 0.06
    assert flags(detector, inputs, undecided).mean() > 0.99


def test_too_few_rows_are_refused() -> None:
    inputs = rows(199)

    with pytest.raises(CalibrationError, match=r"199 benign rows are too few .* at least 200"):
        Foreign().calibrate(query(inputs), TinyVictim().predict(inputs))


def test_what_the_victim_does_not_show_is_left_out() -> None:
    """As of an upstream, which shows neither features nor logits."""
    inputs = rows(300)
    shown = TinyVictim().predict(inputs)
    bare = replace(shown, logits=None, features=None)
    learned = Foreign().calibrate(query(inputs), bare)
    detector = loaded(learned)

    assert {name.partition(".")[0] for name in learned} == {"residual", "near", "measures"}
    assert flags(detector, inputs, bare).shape == (300, 1)
    with pytest.raises(CalibrationError, match="shows no features and no logits; add 'residual'"):
        Foreign(measures=("energy",)).calibrate(query(inputs), bare)


def test_a_calibration_for_none_of_the_measures_is_refused_at_load() -> None:
    """After an edit of the config: better at the start than 503 at every request."""
    inputs = rows(300)
    learned = Foreign(measures=("residual",)).calibrate(query(inputs), TinyVictim().predict(inputs))

    with pytest.raises(CalibrationError, match=r"has none of energy; make it anew"):
        loaded(learned, ("energy",))


def test_of_a_calibration_only_the_wanted_measures_are_used() -> None:
    inputs = rows(300)
    answer = TinyVictim().predict(inputs)
    learned = calibration.learn(TinyVictim(), (Foreign(),), inputs.numpy())["foreign"]
    residual, _, energy = learned["tolerated"]
    detector = loaded(learned, ("energy", "residual"))

    assert flags(detector, inputs, answer).shape == (300, 2)
    assert detector.tolerated("default").tolist() == [energy, residual]


def test_a_victim_that_names_a_single_class_can_be_calibrated() -> None:
    inputs = rows(300)
    answer = TinyVictim().predict(inputs)
    constant = replace(answer, values=torch.tensor([[1.0, 0, 0, 0, 0]]).repeat(300, 1))
    learned = Foreign().calibrate(query(inputs), constant)

    assert learned["mahalanobis.means"].size == 16


@pytest.mark.parametrize("constant", ["inputs", "features"])
def test_constant_inputs_or_features_give_a_calibration_that_accuses_nobody(constant: str) -> None:
    class Constant(TinyVictim):
        def predict(self, inputs: torch.Tensor) -> Prediction:
            answer = super().predict(inputs)
            features = torch.ones(len(inputs), 4) if constant == "features" else answer.features
            return replace(answer, features=features)

    inputs = torch.full((300, 1, 4, 4), 0.25) if constant == "inputs" else rows(300)
    detector = loaded(calibration.learn(Constant(), (Foreign(),), inputs.numpy())["foreign"])
    scores = flags(detector, inputs, Constant().predict(inputs)).double().numpy()

    assert followed(detector, scores).max() < 1


def test_a_threshold_is_of_the_class_that_the_victim_names() -> None:
    """The inputs of class 1 are all stranger than those of class 0; of each, about as many are flagged."""
    inputs = rows(2000, seed=5)
    label = torch.arange(2000) % 2
    inputs = torch.where(label.view(-1, 1, 1, 1) == 1, inputs, 0.5 + 0.1 * (inputs - 0.5))
    values = torch.nn.functional.one_hot(label, 5).float()
    answer = replace(TinyVictim().predict(inputs), values=values)
    learned = Foreign(quantile=0.9).calibrate(query(inputs), answer)
    flagged = flags(loaded(learned), inputs, answer)[:, 0]
    shares = [float(flagged[label == one].mean()) for one in (0, 1)]

    assert np.allclose(shares, 0.1, atol=0.03)


def test_a_burst_of_near_duplicates_is_one_observation(
    shipped: Foreign, shipped_victim: TorchVictim
) -> None:
    picture = rows(1, shape=(1, 28, 28)).repeat(20, 1, 1, 1)
    trembling = picture + 0.01 * rows(20, seed=1, shape=(1, 28, 28))
    others = rows(20, seed=2, shape=(1, 28, 28))

    def said(inputs: torch.Tensor) -> np.ndarray:
        scores = shipped.score(query(inputs), shipped_victim.predict(inputs)).double().numpy()
        return shipped.watch(shipped.initial(), scores, 0.0)[1][:, 0]

    assert said(trembling)[0] == 1
    assert np.isnan(said(trembling)[1:]).all(), "copies speak neither against the client nor for it"
    assert said(others).tolist() == [1] * 20


def test_the_classifier_tells_foreign_families_and_leaves_digits_of_another_kind_alone(
    shipped: Foreign, shipped_victim: TorchVictim, digits: Images
) -> None:
    """Checked digits, and chessboards of digits' quarters, of which the recipe's pool has the like."""
    own = torch.from_numpy(digits.x[:2000])
    foreign = own.roll(14, dims=3).flip(2)
    share = [
        float(flags(shipped, x, shipped_victim.predict(x))[:, 0].mean()) for x in (own, foreign)
    ]

    assert shipped.width == 4
    assert share[0] < 0.04
    assert share[1] > 0.8


def test_another_classifier_than_that_of_the_calibration_is_refused(
    root: Path, tmp_path: Path
) -> None:
    learned, _ = calibration.read(root / "configs/models/mnist-ini.calibration.safetensors")
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"another")

    with pytest.raises(CalibrationError, match=r"made with another classifier than .*calibrate"):
        Foreign(classifier=other).load(
            Setup(SETUP.device, SETUP.secret, learned["foreign"]),
        )


def test_without_its_file_the_classifier_is_left_out(root: Path) -> None:
    learned, _ = calibration.read(root / "configs/models/mnist-ini.calibration.safetensors")
    detector = loaded(learned["foreign"])

    assert detector._measures == ALL
    assert len(detector.tolerated("default")) == 3


def test_a_classifier_of_another_victim_or_other_inputs_is_refused(root: Path) -> None:
    file = root / "configs/models/mnist-foreign.safetensors"

    with pytest.raises(CalibrationError, match="was trained for other inputs or another victim"):
        Foreign(classifier=file).calibrate(query(rows(300)), TinyVictim().predict(rows(300)))


def test_rows_that_the_classifier_takes_for_foreign_are_no_benign_traffic(
    root: Path, shipped_victim: TorchVictim, digits: Images
) -> None:
    """A tenth of noise among digits."""
    mixed = torch.from_numpy(digits.x[:600].copy())
    mixed[::10] = rows(60, shape=(1, 28, 28))
    detector = Foreign(classifier=root / "configs/models/mnist-foreign.safetensors")

    with pytest.raises(CalibrationError, match=r"takes 1\d% of the benign rows for foreign: mixed"):
        detector.calibrate(query(mixed), shipped_victim.predict(mixed))


def test_a_slow_walk_of_foreign_rows_is_no_burst() -> None:
    """Each row is near the one before it, and not near the first: the walk is counted all along."""
    detector = Foreign(measures=("residual",), burst=50)
    detector._learned.update({"near.square": np.array(1.0), "residual.threshold": np.zeros(1)})
    steps = np.zeros((60, 1 + CODE))
    steps[:, 0], steps[:, 1] = 1.0, 0.4 * np.arange(60)
    trembling = np.zeros((60, 1 + CODE))
    trembling[:, 0], trembling[:, 1] = 1.0, 0.4 * (np.arange(60) % 2)

    def counted(sent: np.ndarray) -> float:
        return float(np.nansum(detector.watch(detector.initial(), sent, 0.0)[1]))

    assert counted(steps) == 20
    assert counted(trembling[:50]) == 1
    assert counted(trembling) == 2  # it is a long one


def test_what_is_near_is_told_by_a_projection_that_only_the_secret_gives() -> None:
    """Else a thief could bend every row to the code of the one before it."""
    size = 28 * 28
    learned = {
        "near.size": np.array(size),
        "residual.mean": np.zeros(size, np.float32),
        "residual.components": np.zeros((size, 2), np.float32),
        "residual.threshold": np.zeros(1),
    }
    codes = []
    for secret in (b"one", b"one", b"other"):
        detector = Foreign(measures=("residual",))
        detector.load(Setup(SETUP.device, secret, learned))
        codes.append(detector._learned["near.code"])

    assert np.array_equal(codes[0], codes[1])
    assert abs(np.corrcoef(codes[0].ravel(), codes[2].ravel())[0, 1]) < 0.1
