"""Washing changes what it says it does, and nothing else of a picture."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from redteam.attacks.washing import Wash, blur, jpeg, median


def drawn(*, channels: int = 1, count: int = 3) -> Tensor:
    """Smooth pictures with an edge."""
    across = torch.linspace(0, 1, 28).expand(28, 28)
    pictures = torch.stack([across, across.T, (across > 0.5).float()])[:count]
    return pictures[:, None].repeat(1, channels, 1, 1)


def noisy(pictures: Tensor) -> Tensor:
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    return (pictures + 0.1 * noise).clamp(0, 1)


@pytest.mark.parametrize(
    "wash",
    [
        Wash(how="median", strength=3),
        Wash(how="jpeg", strength=70),
        Wash(how="blur", strength=0.7),
        Wash(how="autoencoder", strength=0.02),
        Wash(how="black", strength=0.05),
        Wash(how="residue", strength=2),
    ],
    ids=lambda wash: wash.how,
)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_stay_pictures_of_their_shape(wash: Wash, channels: int) -> None:
    pictures = noisy(drawn(channels=channels))
    before = pictures.clone()
    washed = wash.apply(pictures, torch.Generator().manual_seed(1))
    again = wash.apply(pictures, torch.Generator().manual_seed(1))

    assert washed.shape == pictures.shape
    assert 0 <= float(washed.min()) <= float(washed.max()) <= 1
    assert torch.equal(washed, again)
    assert torch.equal(pictures, before)
    assert not torch.equal(washed, pictures)


@pytest.mark.parametrize("wash", [lambda x: median(x, 3), lambda x: blur(x, 1.0)])
def test_noise_is_taken_away(wash) -> None:  # type: ignore[no-untyped-def]
    clean = drawn(count=2)
    dirty = noisy(clean)

    assert (wash(dirty) - clean).square().mean() < 0.5 * (dirty - clean).square().mean()


def test_a_flat_picture_stays_as_it_is() -> None:
    flat = torch.full((2, 1, 28, 28), 0.5019608)

    for washed in (median(flat, 5), blur(flat, 0.8), jpeg(flat, 70)):
        assert torch.allclose(washed, flat, atol=1e-5)


def test_nearly_black_becomes_black_and_the_rest_stays() -> None:
    values = torch.tensor([0.0, 0.049, 0.051, 1.0]).view(1, 1, 2, 2)

    assert Wash(how="black", strength=0.05).apply(values, torch.Generator()).flatten().tolist() == (
        pytest.approx([0, 0, 0.051, 1])
    )


def test_a_pattern_that_16_pictures_share_is_taken_off_all_of_them() -> None:
    pattern = 0.02 * torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    grey = torch.linspace(0.2, 0.8, 30).view(30, 1, 1, 1).expand(30, 1, 28, 28)
    washed = Wash(how="residue", strength=16).apply(grey + pattern, torch.Generator())

    assert (washed - grey).square().mean() < 0.5 * pattern.square().mean()


def test_strong_compression_changes_more() -> None:
    pictures = noisy(drawn())
    changes = [float((jpeg(pictures, q) - pictures).square().mean()) for q in (90, 50, 10)]

    assert changes == sorted(changes)


def test_an_autoencoder_learns_its_pictures() -> None:
    pictures = drawn().repeat(20, 1, 1, 1)
    errors = [
        float(
            (Wash(how="autoencoder", strength=s).apply(pictures, torch.Generator()) - pictures)
            .square()
            .mean()
        )
        for s in (0.002, 0.3)
    ]

    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize(
    ("how", "strength"),
    [
        ("median", 2),
        ("median", 11),
        ("jpeg", 96),
        ("jpeg", 0.5),
        ("blur", 0),
        ("blur", 200),
        ("black", 1),
        ("residue", 1.5),
    ],
)
def test_strengths_that_mean_nothing_are_refused(how: str, strength: float) -> None:
    with pytest.raises(ValidationError):
        Wash.model_validate({"how": how, "strength": strength})
