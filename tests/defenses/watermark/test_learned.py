"""The learned mark is found with the key and by nobody else, and names its client."""

import numpy as np
import pytest
import torch
from torch import Tensor

from defenses.watermark import learned
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

    assert found.p == pytest.approx(detect(NETWORKS, served, KEY, whole=WHOLE).p, rel=1e-3)
