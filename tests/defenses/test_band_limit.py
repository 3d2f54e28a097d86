import pytest
import torch
from scipy import ndimage

from defenses import band_limit
from defenses.band_limit import BandLimit
from mantlet import likeness
from mantlet.types import Kind, Prediction
from tests.helpers import query, rows


def answered(images: torch.Tensor, **settings: float) -> torch.Tensor:
    prediction = Prediction(images, Kind.IMAGES)
    return BandLimit.model_validate(settings)(prediction, query(rows(len(images))), {}).values


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_without_details_the_low_band_is_left(sigma: float) -> None:
    images = rows(2, shape=(3, 20, 31))
    wanted = ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="nearest")

    assert (answered(images, details=0, sigma=sigma) - torch.from_numpy(wanted)).abs().max() < 0.01


def test_details_of_one_change_nothing() -> None:
    images = rows(2, shape=(1, 9, 9))

    assert torch.equal(answered(images, details=1), images)


def test_edges_are_exaggerated_above_one_and_softened_below() -> None:
    edge = 0.3 + 0.4 * (torch.arange(20) >= 10).float().expand(1, 1, 20, 20)
    steps = [answered(edge, details=d)[0, 0, 5, 10] - edge[0, 0, 5, 9] for d in (0.5, 1.0, 1.5)]

    assert steps[0] < steps[1] < steps[2]


def test_a_picture_stays_as_similar_as_was_asked() -> None:
    images = rows(3, shape=(1, 30, 30))
    alike = likeness.ssim(answered(images, details=4, similarity=0.98), images)

    assert alike.min() > 0.97


def test_flat_pictures_stay_flat() -> None:
    flat = torch.full((1, 3, 1, 6), 0.4)

    assert torch.allclose(answered(flat, details=3), flat)
    assert torch.allclose(band_limit.smoothed(flat, 1.0), flat)
