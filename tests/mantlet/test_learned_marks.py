"""Networks that write and read marks keep the quality that was asked for, in pictures of any size."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mantlet.errors import WeightsError
from mantlet.learned_marks import LENGTH, LearnedMark, small


@pytest.fixture(scope="module")
def networks() -> LearnedMark:
    with torch.random.fork_rng():
        torch.random.manual_seed(0)  # layers draw their weights from the global generator
        return LearnedMark().eval().requires_grad_(False)


def drawn(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def messages(count: int) -> Tensor:
    random = torch.Generator().manual_seed(2)
    return torch.randint(2, (count, LENGTH), generator=random).float() * 2 - 1


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 28, 28), (1, 40, 33), (3, 64, 70)])
def test_a_picture_of_any_size_keeps_its_quality(
    networks: LearnedMark, shape: tuple[int, ...]
) -> None:
    pictures = drawn(4, *shape)
    for black in (pictures, 0 * pictures):
        marked = networks.embed(black, messages(4), 38.0)
        levels = (marked * 255).round() / 255 - (black * 255).round() / 255
        quality = -10 * levels.square().mean(dim=(1, 2, 3)).log10()

        assert marked.shape == black.shape
        assert 0 <= marked.min() <= marked.max() <= 1
        assert quality.min() >= 38.0
        assert quality.max() < 45.0


def test_untrained_networks_read_a_loud_message_on_grey(networks: LearnedMark) -> None:
    sent = messages(8)
    marked = networks.embed(torch.full((8, 1, 28, 28), 0.5), sent, 30.0)

    assert (networks.read(marked) * sent > 0).float().mean() > 0.9


def test_a_large_picture_is_read_as_its_small_grey_one(networks: LearnedMark) -> None:
    pictures = drawn(2, 3, 56, 56)

    assert small(pictures).shape == (2, 1, 28, 28)
    assert torch.equal(networks.read(pictures), networks.read(small(pictures)))


def test_networks_come_back_from_a_file_of_half_precision(
    networks: LearnedMark, tmp_path: Path
) -> None:
    networks.save(tmp_path / "m.safetensors", {"recipe": "{}"})
    again = LearnedMark.load(tmp_path / "m.safetensors")
    pictures = drawn(4, 1, 28, 28)

    assert (tmp_path / "m.safetensors").stat().st_size < 200_000
    assert torch.allclose(again.read(pictures), networks.read(pictures), rtol=0.05, atol=0.05)


def test_a_file_of_something_else_is_refused(root: Path) -> None:
    with pytest.raises(WeightsError, match="do not fit architecture 'learned mark'"):
        LearnedMark.load(root / "configs/models/mnist-lenet.safetensors")
