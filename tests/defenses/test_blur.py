import pytest
import torch
from scipy import ndimage

from defenses.blur import Blur
from mantlet.types import Kind, Prediction
from tests.helpers import query, rows


def blurred(images: torch.Tensor, sigma: float) -> torch.Tensor:
    prediction = Prediction(images, Kind.IMAGES)
    return Blur(sigma=sigma)(prediction, query(rows(len(images))), {}).values


@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 40)])
def test_it_is_the_gaussian_filter_of_scipy(sigma: float, shape: tuple[int, ...]) -> None:
    """With continued edges; scipy cuts the kernel at 4 deviations where we do at 3."""
    images = rows(2, shape=shape)
    wanted = ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="nearest")

    assert abs(blurred(images, sigma) - torch.from_numpy(wanted)).max() < 0.004


def test_the_smallest_picture_and_a_flat_one_stay_as_they_are() -> None:
    flat = torch.full((1, 3, 20, 5), 0.3)

    assert torch.allclose(blurred(rows(2, shape=(1, 1, 1)), 5.0), rows(2, shape=(1, 1, 1)))
    assert torch.allclose(blurred(flat, 5.0), flat)
