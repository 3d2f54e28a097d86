import pytest
import torch
from torch import Tensor, nn

from detectors.coverage import Coverage
from detectors.foreign import Foreign
from detectors.pictures import comparable, fields
from detectors.similarity import Similarity
from detectors.sketch import Sketch
from mantlet.plugin import Detector, Setup
from mantlet.types import Kind, Prediction, Query
from serving import calibration
from serving.folding import Fold, Folded
from tests.helpers import SETUP, TinyTranslator, TinyVictim, query, rows


def smooth(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Pictures of coarse shapes."""
    coarse = rows(count, seed=seed, shape=(1, 6, 6))
    return nn.functional.interpolate(
        coarse, (height, width), mode="bicubic", align_corners=True
    ).clamp(0, 1)


def watched(detector: Detector, *streams: Tensor) -> Folded:
    """One client's pictures, calibrated on 1,500 of 28 x 28."""
    victim = TinyTranslator()
    learned = calibration.learn(victim, [detector], smooth(1500, 28, 28, seed=9).numpy())
    detector.load(Setup(SETUP.device, SETUP.secret, learned[detector.name]))
    fold, memories, folded = Fold([detector], 1e-6, secret=SETUP.secret), {}, None
    for stream in streams:
        asked = query(stream)
        scores = detector.score(asked, victim.predict(stream)).double().numpy()
        folded = fold.run(asked, {detector.name: scores}, memories)
        memories = folded.memories
    assert folded is not None
    return folded


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 28, 28), (3, 200, 31), (3, 1, 1)])
def test_pictures_of_every_size_become_rows_of_one_length(shape: tuple[int, ...]) -> None:
    assert fields(rows(3, shape=shape)).shape == (3, 128)


def test_fields_have_a_brightness_and_a_roughness() -> None:
    flat, noise = torch.full((1, 3, 64, 64), 0.4), rows(1, shape=(1, 64, 64))

    assert torch.allclose(fields(flat)[0, :64], torch.tensor(0.4))
    assert fields(flat)[0, 64:].abs().max() < 1e-3
    assert fields(noise)[0, 64:].mean() == pytest.approx(1 / 12**0.5, abs=0.01)


def test_only_pictures_of_pictures_are_changed() -> None:
    classified = query(rows(2)), TinyVictim().predict(rows(2))
    images = Prediction(rows(2, shape=(1, 8, 8)), Kind.IMAGES)
    latents = Query(["client"] * 2, torch.randn(2, 8), 0.0)
    asked, seen = comparable(query(rows(2)), images)

    assert comparable(*classified) == classified
    assert comparable(latents, images) == (latents, images)
    assert asked.inputs.shape == (2, 128)
    assert seen.values.shape == (2, 1)


@pytest.mark.parametrize("kind", [Foreign, Similarity])
def test_who_sends_pictures_like_the_benign_ones_is_not_alarmed_whatever_their_size(
    kind: type[Detector],
) -> None:
    folded = watched(kind(), smooth(400, 28, 28, 1), smooth(300, 40, 56, 2), smooth(300, 64, 64, 3))

    assert not folded.signals["evidence"].alarm.any()


def test_pictures_of_another_kind_are_foreign_within_thirty_rows() -> None:
    folded = watched(Foreign(), rows(30, shape=(1, 48, 40)))

    assert folded.signals["evidence"].alarm[-1]


def test_windows_of_one_picture_that_move_by_a_pixel_are_similar() -> None:
    scene = smooth(1, 200, 200, 5)[0]
    windows = [scene[:, y : y + 48, x : x + 48] for y in range(0, 60, 4) for x in range(0, 60, 2)]
    folded = watched(Similarity(), torch.stack(windows))

    assert folded.signals["evidence"].alarm[-1]


def test_covered_is_what_clients_were_shown() -> None:
    folded = watched(Coverage(planes=8), smooth(300, 32, 32, 1))
    covered = folded.signals["coverage"].suspicion

    assert covered[-1] > 0.3
    assert (covered.diff() >= 0).all()


def test_codes_of_pictures_are_kept_for_campaigns() -> None:
    folded = watched(Sketch(), smooth(200, 32, 48, 1))
    kept = folded.memories["client"]["sketch"]

    assert (kept["rank"] < 2**24).all()
