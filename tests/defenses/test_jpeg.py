from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from defenses.jpeg import Jpeg
from mantlet.types import Kind, Prediction
from tests.helpers import query, rows


def compressed(images: Tensor, quality: int) -> Tensor:
    prediction = Prediction(images, Kind.IMAGES)
    return Jpeg(quality=quality)(prediction, query(rows(len(images))), {}).values


def smooth(*shape: int) -> Tensor:
    coarse = torch.rand(*shape[:2], 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, shape[2:], mode="bilinear", align_corners=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_what_pillow_makes_of_each_picture(channels: int) -> None:
    images = smooth(2, channels, 20, 33)
    levels = (images[1] * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()
    buffer = BytesIO()
    Image.fromarray(levels).save(buffer, "JPEG", quality=60)
    wanted = np.asarray(Image.open(buffer)).reshape(20, 33, channels)

    assert np.allclose(compressed(images, 60)[1].permute(1, 2, 0).numpy() * 255, wanted, atol=1e-3)


def test_less_quality_is_more_change() -> None:
    images = smooth(4, 3, 64, 64)
    changes = [float((compressed(images, q) - images).abs().mean()) for q in (95, 60, 10)]

    assert changes == sorted(changes)
    assert changes[0] < 0.01
    assert changes[2] > 3 * changes[0]


def test_two_channels_and_single_pixels_are_compressed_too() -> None:
    assert compressed(smooth(1, 2, 16, 16), 90).shape == (1, 2, 16, 16)
    assert torch.allclose(
        compressed(torch.full((2, 1, 1, 1), 0.5), 95), torch.tensor(0.5), atol=0.01
    )
