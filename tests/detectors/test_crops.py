import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detectors.crops import Crops
from mantlet.errors import CalibrationError
from mantlet.plugin import Setup
from mantlet.types import Kind, Prediction
from serving import calibration
from serving.folding import Fold
from tests.helpers import SETUP, TinyTranslator, query, rows

SECRET = b"another secret of the tests"


def scenes(count: int, side: int, seed: int) -> Tensor:
    """Pictures with shapes of every size."""
    layers = []
    for step in (3, 6, 12):
        coarse = rows(count, seed=seed + 100 * step, shape=(1, side // step + 2, side // step + 2))
        layers.append(nn.functional.interpolate(coarse, (side, side), mode="bicubic"))
    return torch.stack(layers).mean(dim=0).clamp(0, 1)


def windows(scene: Tensor, count: int, side: int, seed: int) -> Tensor:
    """(count, C, side, side) cut out of (C, H, W) anywhere."""
    rng, most = np.random.default_rng(seed), scene.shape[1] - side
    corners = rng.integers(0, most + 1, (count, 2)).tolist()
    return torch.stack([scene[:, y : y + side, x : x + side] for y, x in corners])


def alarm(stream: Tensor, **settings: int) -> int | None:
    """At which picture the alarm comes, calibrated on 600 pictures of 40 x 40."""
    detector, victim = Crops.model_validate(settings), TinyTranslator()
    detector.load(SETUP)
    learned = calibration.learn(victim, [detector], scenes(600, 40, 0).numpy())
    detector.load(Setup(SETUP.device, SETUP.secret, learned["crops"]))
    asked = query(stream)
    scores = {"crops": detector.score(asked, victim.predict(stream)).double().numpy()}
    folded = Fold([detector], 1e-6, secret=SECRET).run(asked, scores, {})
    found = folded.signals["evidence"].alarm.numpy()
    return int(found.argmax()) + 1 if found.any() else None


def codes(picture: Tensor, secret: bytes = SETUP.secret) -> set[int]:
    detector = Crops()
    detector.load(Setup(SETUP.device, secret, {"shared": np.array(4.0)}))
    halves = detector.score(query(picture[None]), Prediction(picture[None], Kind.IMAGES))[0]
    high, low = halves.long().chunk(2)
    return set(((high << 24) + low).tolist())


def test_windows_of_one_scene_are_found_within_twenty() -> None:
    row = alarm(windows(scenes(1, 100, 7)[0], 60, 40, 0))

    assert row is not None
    assert row <= 20


def test_windows_of_ten_scenes_in_turn_are_found_within_sixty() -> None:
    cut = [windows(scene, 20, 40, place) for place, scene in enumerate(scenes(10, 100, 7))]
    row = alarm(torch.cat(cut))

    assert row is not None
    assert row <= 60


def test_different_pictures_and_the_tiles_of_a_large_one_are_none() -> None:
    large = scenes(1, 640, 9)
    tiles = large.unfold(2, 40, 40).unfold(3, 40, 40).reshape(-1, 1, 40, 40)

    assert alarm(scenes(600, 40, 5)) is None
    assert alarm(tiles) is None


def test_the_same_picture_again_is_a_retry() -> None:
    assert alarm(scenes(20, 40, 5).repeat(10, 1, 1, 1)) is None


def test_codes_move_with_the_content() -> None:
    scene = scenes(1, 100, 3)[0]
    near, far = codes(scene[:, :60, :60]), codes(scene[:, 2:62, 3:63])

    assert len(near) == 8
    assert len(near & far) >= 6
    assert not near & codes(scenes(1, 60, 4)[0])
    assert not near & codes(scene[:, :60, :60], SECRET)


def test_a_picture_that_is_cut_into_strips_has_the_codes_of_the_whole() -> None:
    """A window of few rows is one strip; of a scene of many it is found in several."""
    scene = scenes(1, 200, 3)[0]

    assert codes(scene[:, 64:140]) & codes(scene[:, 60:200])


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 1, 50), (1, 30, 30)])
def test_small_and_plain_pictures_have_no_codes_and_are_never_flagged(
    shape: tuple[int, ...],
) -> None:
    slope = torch.linspace(0, 1, shape[2]).expand(shape).contiguous()

    assert codes(slope) == {2**48 - 1}
    assert alarm(slope + 0.001 * torch.arange(50).view(-1, 1, 1, 1) / 50) is None


def test_few_benign_pictures_are_refused() -> None:
    few = scenes(50, 40, 0)

    with pytest.raises(CalibrationError, match="50 benign rows are too few"):
        Crops().calibrate(query(few), Prediction(few, Kind.IMAGES))
