from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from defenses import high_band_dither
from defenses.high_band_dither import HighBandDither
from mantlet import likeness
from mantlet.data import Images
from mantlet.types import Kind, Prediction
from tests.helpers import SETUP, query, rows

OTHER = b"another secret"


def pictures(count: int = 60, channels: int = 1, side: int = 28, seed: int = 0) -> Tensor:
    """Rough pictures of soft patches."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(count, channels, 9, 9, generator=generator)
    return nn.functional.interpolate(rough, size=(side, side), mode="bilinear")


def answered(images: Tensor, *, secret: bytes = SETUP.secret, **settings: float) -> Tensor:
    defense = HighBandDither.model_validate(settings)
    defense.load(replace(SETUP, secret=secret))
    prediction = Prediction(images, Kind.IMAGES)
    return defense(prediction, query(rows(len(images))), {}).values


@pytest.mark.parametrize("psnr", [34.0, 38.0, 42.0])
@pytest.mark.parametrize("shape", [(1, 28), (3, 33)])
def test_pictures_keep_the_psnr_and_spend_it(psnr: float, shape: tuple[int, int]) -> None:
    images = pictures(8, *shape)
    levels = (answered(images, psnr=psnr, similarity=0) * 255).round() / 255
    kept = likeness.psnr(levels, images)

    assert kept.min() >= psnr
    assert kept.median() < psnr + 1


@pytest.mark.parametrize("settings", [{}, {"psnr": 25, "similarity": 0.98}, {"similarity": 0.995}])
def test_no_picture_is_less_similar_than_was_asked(
    settings: Mapping[str, float], digits: Images
) -> None:
    wanted = {"similarity": 0.98, **settings}["similarity"]
    real = torch.from_numpy(digits.x[:200])
    found = []
    for images in (pictures(60, channels=3), real):
        grey, kept = (x.mean(dim=1, keepdim=True) for x in (images, answered(images, **settings)))
        found.append(float(likeness.ssim(kept, grey).min()))

    assert min(found) >= wanted - 1e-6


def test_no_detail_is_multiplied_by_more_than_the_largest_weight() -> None:
    """Pictures with hardly a detail would have to be loud with it to spend their signal-to-noise ratio."""
    faint = 0.5 + 0.01 * (pictures(4, side=29) - 0.5)
    change = answered(faint, psnr=25, similarity=0) - faint
    most = high_band_dither.LARGEST * 52 * high_band_dither.details(faint).abs().amax(dim=(1, 2, 3))

    assert (change.abs().amax(dim=(1, 2, 3)) <= most + 1e-6).all()
    assert likeness.psnr(faint + change, faint).min() > 40


def test_flat_pictures_stay_flat_and_tiny_ones_are_taken() -> None:
    flat = torch.full((2, 3, 9, 4), 0.5)

    assert torch.allclose(answered(flat), flat)
    assert answered(rows(2, shape=(1, 1, 1))).shape == (2, 1, 1, 1)


def test_the_change_follows_the_content_and_not_the_place() -> None:
    images = pictures(1, side=60)
    moved = images.roll((2, 4), dims=(2, 3))
    one, other = (answered(x, similarity=0) - x for x in (images, moved))
    inside = (..., slice(16, -16), slice(16, -16))
    pair = torch.stack([one.roll((2, 4), dims=(2, 3))[inside].flatten(), other[inside].flatten()])

    assert torch.corrcoef(pair)[0, 1] > 0.99


def test_the_secret_is_found_in_pictures_and_no_other() -> None:
    clean = pictures()
    dithered = (answered(clean) * 255).round() / 255

    assert high_band_dither.found(dithered, clean, SETUP.secret) <= 1e-6
    assert high_band_dither.found(dithered, clean, OTHER) > 0.01
    assert high_band_dither.found(clean, clean, SETUP.secret) == 1.0


def test_keys_that_are_not_there_are_found_as_rarely_as_the_p_value_says() -> None:
    clean = pictures(20)
    suspect = nn.functional.avg_pool2d(
        nn.functional.pad(clean, (1, 1, 1, 1), mode="replicate"), 3, 1
    )
    values = [high_band_dither.found(suspect, clean, bytes([k])) for k in range(200)]

    assert sum(p <= 0.05 for p in values) <= 10
    assert min(values) > 1e-3


def test_the_signs_are_those_of_the_secret() -> None:
    one, other = high_band_dither.signs(b"a"), high_band_dither.signs(b"b")

    assert one.shape == (52,)
    assert set(one.tolist()) == {-1.0, 1.0}
    assert not torch.equal(one, other)
