"""The learned mark is found with the key and by nobody else, and names its client."""

import numpy as np
import pytest
import torch
from torch import Tensor

from defenses.watermark import learned
from defenses.watermark.bounds import log_chernoff
from defenses.watermark.carriers import MarkKey
from defenses.watermark.learned import SHIPPED, detect, judged, message, read_all, trace
from mantlet.data import Images
from mantlet.errors import ConfigError
from mantlet.learned_marks import LENGTH, LearnedMark

KEY = MarkKey(b"a secret of the tests", "m")
NETWORKS = LearnedMark.load(SHIPPED)
WHOLE = (28, 28)


@pytest.fixture(scope="module")
def clean(digits: Images) -> Tensor:
    return torch.from_numpy(digits.x[:64])


@pytest.fixture(scope="module")
def served(clean: Tensor) -> Tensor:
    marked = NETWORKS.embed(clean, message(KEY, "ann").expand(len(clean), -1), 38.0)
    return (marked * 255).round() / 255


def test_the_mark_is_found_with_its_key_alone(clean: Tensor, served: Tensor) -> None:
    assert detect(NETWORKS, served, KEY).p < 1e-6
    assert detect(NETWORKS, served, MarkKey(b"another secret", "m")).p > 1e-3
    assert detect(NETWORKS, served, MarkKey(b"a secret of the tests", "n")).p > 1e-3
    assert detect(NETWORKS, clean, KEY).p > 1e-3


def test_crops_and_mirror_images_are_put_back(served: Tensor) -> None:
    mirrored = detect(NETWORKS, served.flip(-1), KEY)
    cropped = detect(NETWORKS, served[..., 3:25, 1:23], KEY, whole=WHOLE)

    assert mirrored.p < 1e-6
    assert mirrored.way != "untouched"
    assert cropped.p < 1e-6


def bare(said: Tensor, tested: Tensor | None = None) -> float:
    """The bound of the model's signs alone, all of them or those that are tested."""
    weights, signs = said[: learned.SHARED], KEY.model[: learned.SHARED].double()
    if tested is not None:
        weights, signs = weights[tested], signs[tested]
    return float(np.exp(log_chernoff(weights.numpy(), np.array([float(weights @ signs)])))[0])


def test_every_way_to_look_pays_its_share_of_the_error(served: Tensor) -> None:
    """Half goes to what nobody moved, and a quarter each to the two other ways."""
    corners = [(i % 5, i // 5 % 5) for i in range(len(served))]
    parts = [p[:, y : y + 24, x : x + 24] for p, (y, x) in zip(served, corners, strict=True)]
    untouched, mirrored = (detect(NETWORKS, one, KEY) for one in (served, served.flip(-1)))
    cut = detect(NETWORKS, served[..., :27, :27], KEY, whole=WHOLE)
    each = detect(NETWORKS, torch.stack(parts), KEY, whole=WHOLE)
    odd = torch.arange(learned.SHARED) % 2 == 1
    halves = [each.p / bare(each.coefficients, half) for half in (odd, ~odd)]

    assert [f.way for f in (untouched, mirrored, cut, each)] == [
        "untouched",
        *["moved"] * 2,
        "each",
    ]
    assert untouched.p / bare(untouched.coefficients) == pytest.approx(2)
    assert mirrored.p / bare(mirrored.coefficients) == pytest.approx(4 * 2)
    assert cut.p / bare(cut.coefficients) == pytest.approx(4 * 2 * 2 * 2)
    assert any(half == pytest.approx(4 * 2) for half in halves)


def test_p_values_of_other_keys_are_no_smaller_than_they_may_be(served: Tensor) -> None:
    read = read_all(NETWORKS, served)
    p = np.array([judged(read, MarkKey(b"%d" % i, "m")).p for i in range(400)])

    assert (p <= 0.1).mean() <= 0.1
    assert p.min() > 1e-4


def test_a_client_is_traced_among_a_thousand(served: Tensor) -> None:
    clients = [f"client {i}" for i in range(999)] + ["ann"]
    suspects = trace(detect(NETWORKS, served, KEY), KEY, clients)

    assert suspects[0].client == "ann"
    assert suspects[0].p < 0.01 < suspects[1].p
    assert trace(detect(NETWORKS, served, KEY), KEY, []) == []


def test_a_message_is_the_models_signs_and_the_clients() -> None:
    ann, bob = message(KEY, "ann"), message(KEY, "bob")

    assert ann.shape == (LENGTH,)
    assert torch.equal(ann[: learned.SHARED], bob[: learned.SHARED])
    assert not torch.equal(ann, bob)
    assert ann.abs().eq(1).all()


def test_pictures_of_several_sizes_are_looked_at_together(served: Tensor) -> None:
    large = torch.nn.functional.interpolate(served[:32], size=(56, 56), mode="bilinear")
    both = detect(NETWORKS, [large, served[32:]], KEY)

    assert both.pictures == 64
    assert both.p < 1e-6
    with pytest.raises(ConfigError, match="several sizes"):
        detect(NETWORKS, [served, served[..., :22, :22]], KEY, whole=WHOLE)


def test_one_picture_gets_a_p_value_and_none_is_refused(served: Tensor) -> None:
    assert detect(NETWORKS, served[:1], KEY).pictures == 1
    assert detect(NETWORKS, torch.zeros(2, 3, 1, 1), KEY).p > 1e-3

    with pytest.raises(ValueError, match="no pictures"):
        detect(NETWORKS, served[:0], KEY)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_proves_nothing(clean: Tensor, value: float) -> None:
    broken = clean.clone()
    broken[3, 0, 5, 5] = value

    with pytest.raises(ValueError, match="values that are not finite"):
        detect(NETWORKS, broken, KEY)


def test_batches_are_taken_as_they_come(served: Tensor) -> None:
    found = detect(NETWORKS, iter(torch.split(served, 10)), KEY, whole=WHOLE)

    assert found.p / detect(NETWORKS, served, KEY, whole=WHOLE).p == pytest.approx(1, rel=1e-3)
