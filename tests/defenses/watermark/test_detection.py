"""A mark is found where it is, and p-values are what they say where it is not."""

import numpy as np
import pytest
import torch
from torch import Tensor

from defenses.watermark import bounds
from defenses.watermark.carriers import COUNT, TILE, MarkKey
from defenses.watermark.detection import Found, detect, fits, looks, search
from defenses.watermark.mark import Mark
from defenses.watermark.reading import Reading, read
from mantlet.data import Images

SECRET = b"a secret of the tests"
KEY = MarkKey(SECRET, "m")


@pytest.fixture(scope="module")
def clean(digits: Images) -> Tensor:
    return torch.from_numpy(digits.x[:64])


@pytest.fixture(scope="module")
def served(clean: Tensor) -> Tensor:
    marked = Mark(SECRET, "m").embed(clean, ["ann"] * len(clean))
    return (marked * 255).round() / 255


def cropped(images: Tensor, side: int) -> Tensor:
    """Each by itself, somewhere."""
    corners = np.random.default_rng(0).integers(0, images.shape[-1] - side + 1, (len(images), 2))
    return torch.stack(
        [p[:, i : i + side, j : j + side] for p, (i, j) in zip(images, corners, strict=True)]
    )


def test_64_pictures_prove_the_mark(clean: Tensor, served: Tensor) -> None:
    assert detect(served, KEY).p < 1e-6
    assert detect(clean, KEY).p > 0.01
    assert detect(served, MarkKey(b"another secret", "m")).p > 0.01


def test_the_mark_is_found_after_crop_mirror_and_noise(served: Tensor) -> None:
    noise = 0.05 * torch.randn(served.shape, generator=torch.Generator().manual_seed(0))

    assert detect((served + noise).clamp(0, 1), KEY).p < 1e-4
    assert detect(served[:, :, 4:26, 2:24], KEY).way == "moved"
    assert detect(served[:, :, 4:26, 2:24], KEY).p < 1e-4
    assert detect(served.flip(-1), KEY).p < 1e-4
    assert detect(cropped(served, 22), KEY).way == "each"
    assert detect(cropped(served, 22), KEY, whole=(28, 28)).p < 1e-4


def priced(found: Found) -> float:
    """What the p-value costs more than the bound of its statistic; `pytest.approx` takes all that is tiny for equal."""
    return float(np.exp(np.log(found.p) - bounds.log_tail(found.fit)))


def test_every_way_to_look_pays_its_share_of_the_error(served: Tensor) -> None:
    """Half goes to what nobody moved, and of several pictures a quarter each to the two other ways."""
    untouched, mirrored = detect(served, KEY), detect(served.flip(-1), KEY)
    one, cut = (
        detect(served[:1].flip(-1), KEY),
        detect(served[:, :, 4:26, 2:24], KEY, whole=(28, 28)),
    )
    each = detect(cropped(served, 22), KEY)

    assert [f.way for f in (untouched, mirrored, one, cut, each)] == [
        "untouched",
        *["moved"] * 3,
        "each",
    ]
    assert priced(untouched) == pytest.approx(2)
    assert priced(mirrored) == pytest.approx(4 * 2 * TILE**2)
    assert priced(one) == pytest.approx(2 * 2 * TILE**2)
    assert priced(cut) == pytest.approx(4 * 2 * 7**2)
    assert priced(each) == pytest.approx(4 * 2)  # the better of two halves of the signs


def test_pictures_that_were_moved_alike_lie_where_each_of_them_may(served: Tensor) -> None:
    """Whole ones have one place, mirrored or not, and what was cut from others shares it."""
    parts = [served[:32].flip(-1), served[32:, :, :22, :22].flip(-1)]
    found = detect(parts, KEY, whole=(28, 28))

    assert found.way == "moved"
    assert priced(found) == pytest.approx(4 * 2)


def test_every_scale_that_is_tried_costs(served: Tensor) -> None:
    tried = detect(served, KEY, scales=(0.5, 0.75))

    assert tried.scale == 1.0
    assert tried.p / detect(served, KEY).p == pytest.approx(3)


def test_pictures_of_several_clients_and_sizes_are_taken_together(clean: Tensor) -> None:
    marked = Mark(SECRET, "m").embed(clean, [f"client {i % 7}" for i in range(len(clean))])
    found = detect([marked[:40], marked[40:, :, :, :26]], KEY)

    assert found.p < 1e-6
    assert found.pictures == 64


def test_what_was_resized_is_found_at_the_right_scale(clean: Tensor) -> None:
    large = torch.nn.functional.interpolate(clean[:8], size=(128, 128), mode="bilinear")
    served = Mark(SECRET, "m").embed(large, ["ann"] * 8)
    smaller = torch.nn.functional.interpolate(
        served, size=(96, 96), mode="bilinear", antialias=True
    )

    assert detect(smaller, KEY).p > 1e-3
    found = detect(smaller, KEY, scales=(0.5, 0.75))
    assert found.scale == 0.75
    assert found.p < 1e-6


@pytest.mark.parametrize("count", [1, 12])
def test_p_values_of_wrong_keys_are_never_too_small(
    clean: Tensor, served: Tensor, count: int
) -> None:
    """Whatever the pictures are, marked ones with another key too: the share of keys with p <= a is at most a."""
    for images in (clean[:count], served[:count], torch.rand(count, 1, 40, 40).round()):
        reading = read([images])
        p = np.array([search(reading, MarkKey(i.to_bytes(2), "m")).p for i in range(150)])

        for level in (0.3, 0.1, 0.03, 0.01):
            assert (p <= level).mean() <= level + 3 * (level / 150) ** 0.5


@pytest.mark.parametrize("marked", [False, True])
def test_thousands_of_keys_find_no_more_than_their_share(
    clean: Tensor, served: Tensor, marked: bool
) -> None:
    """Of single pictures, by all ways to look at them."""
    generator = torch.Generator().manual_seed(0)
    waves = read([served if marked else clean]).whitened.repeat(100, 1, 1)
    signs = torch.randint(0, 2, (2, len(waves), COUNT), generator=generator).float() * 2 - 1
    ways = looks(waves, *signs, torch.ones(1, TILE, TILE, dtype=torch.bool), 0.5)
    p = torch.stack([way.log_p for way in ways]).amin(dim=0).exp()

    for level in (0.3, 0.1, 1e-2, 1e-3):
        assert (p <= level).double().mean() <= level


def test_what_is_of_a_client_says_nothing_of_the_model() -> None:
    other = KEY.payload("ann") * 3
    alone = fits(KEY.model, KEY.model, KEY.client)

    assert fits(other, KEY.model, KEY.client).abs() < 1e-6
    assert fits(KEY.model + other, KEY.model, KEY.client) == pytest.approx(float(alone))


def test_flat_pictures_of_any_size_have_no_mark() -> None:
    for side in (1, 2, 28, 100):
        assert detect(torch.full((3, 3, side, side), 0.5), KEY).p == 1.0
        assert detect(torch.zeros(1, 1, side, side), KEY).p == 1.0


def test_no_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="no pictures"):
        detect([], KEY)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_proves_nothing(clean: Tensor, value: float) -> None:
    broken = clean.clone()
    broken[3, 0, 5, 5] = value
    waves = read([clean]).waves.clone()
    waves[0, 0, 0] = value

    with pytest.raises(ValueError, match="values that are not finite"):
        detect(broken, KEY)
    with pytest.raises(ValueError, match="waves of the pictures are not finite"):
        search(Reading(waves, [(28, 28)] * len(clean)), KEY)
