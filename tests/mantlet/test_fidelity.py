import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from mantlet import architectures, fidelity, weights
from mantlet.data import Images
from mantlet.errors import ConfigError


def points(seed: int, count: int = 400, size: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(size, size, generator=torch.Generator().manual_seed(9))
    return torch.randn(count, size, generator=generator) @ mixed


def test_the_distance_is_that_of_the_formula() -> None:
    """By numpy and scipy alone."""
    first, second = points(0), 1.3 * points(1) + 0.5
    a, b = first.double().numpy(), second.double().numpy()
    both = np.cov(a.T), np.cov(b.T)
    apart = a.mean(axis=0) - b.mean(axis=0)
    wanted = apart @ apart + np.trace(both[0] + both[1] - 2 * sqrtm(both[0] @ both[1]).real)

    assert fidelity.frechet(first, second) == pytest.approx(wanted, rel=1e-6)


def test_the_same_pictures_are_at_no_distance_and_all_covered() -> None:
    same = fidelity.fidelity(points(0), points(0))

    assert same.fid == pytest.approx(0, abs=1e-6)
    assert same.coverage == 1.0


def test_pictures_of_one_source_are_near_covered_and_about_as_dense() -> None:
    alike = fidelity.fidelity(points(0), points(1))

    assert alike.fid < 1.0
    assert alike.coverage > 0.9
    assert alike.density == pytest.approx(1.0, abs=0.1)


def test_what_is_forgotten_is_not_covered_though_each_picture_is_good() -> None:
    real, other = points(0), points(1)
    half = other[other[:, 0] > 0].repeat(2, 1)[: len(real)]

    assert fidelity.coverage(real, half) < 0.7
    assert fidelity.density(real, half) > 0.8


def test_bad_pictures_are_neither_near_nor_dense() -> None:
    bad = points(1) + 20.0

    assert fidelity.density(points(0), bad) == 0.0
    assert fidelity.coverage(points(0), bad) == 0.0
    assert fidelity.frechet(points(0), bad) > 1000


def test_a_point_is_covered_by_its_kth_neighbour_s_distance_and_no_farther() -> None:
    real = torch.tensor([[0.0], [1.0], [3.0]])

    assert fidelity.coverage(real, torch.tensor([[-0.9], [9.0], [9.0]]), k=1) == pytest.approx(
        1 / 3
    )
    assert fidelity.coverage(real, torch.tensor([[-1.1], [9.0], [9.0]]), k=1) == 0.0
    assert fidelity.density(real, torch.tensor([[0.5], [0.5], [9.0]]), k=1) == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    ("first", "second"), [((5, 3), (4, 3)), ((5, 3), (5, 2)), ((1, 3), (1, 3)), ((5,), (5,))]
)
def test_sets_of_other_sizes_are_refused(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="as many pictures, two or more"):
        fidelity.frechet(torch.rand(first), torch.rand(second))


@pytest.mark.parametrize("k", [0, 5])
def test_a_neighbour_that_nobody_has_is_refused(k: int) -> None:
    with pytest.raises(ConfigError, match=f"k is {k} of 5 pictures"):
        fidelity.coverage(torch.rand(5, 2), torch.rand(5, 2), k=k)


def test_digits_are_nearer_to_digits_than_to_their_negatives(digits: Images, root: Path) -> None:
    pictures = torch.from_numpy(digits.x[:1500])
    network = architectures.build("lenet", {}).eval()
    weights.load_into(network, root / "configs/models/mnist-lenet.safetensors", "lenet")
    first, second, other = (
        fidelity.embedded(part, network)
        for part in (pictures[:700], pictures[700:1400], 1 - pictures[:700])
    )

    assert first.shape == (700, 84)
    assert 5 * fidelity.frechet(first, second) < fidelity.frechet(first, other)


def test_a_network_without_features_is_refused() -> None:
    with pytest.raises(ConfigError, match="Identity has no embed"):
        fidelity.embedded(torch.rand(2, 1, 4, 4), torch.nn.Identity())


def test_what_serves_does_not_load_the_library_of_metrics() -> None:
    code = "import sys, serving.app, serving.build; print('torchmetrics' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "False"
