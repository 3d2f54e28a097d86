"""Maps are what their papers say, of each row alone, and the same when asked again."""

import subprocess
import sys
import tracemalloc

import pytest
import torch
from torch import Tensor, nn

from mantlet.architectures import LeNet
from mantlet.attribution import (
    METHODS,
    VALUES,
    Attribution,
    Method,
    last_convolution,
    require_captum,
)
from mantlet.errors import ConfigError
from mantlet.types import Kind
from tests.helpers import rows

MATRIX = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
every_method = pytest.mark.parametrize("method", METHODS)


def linear(inputs: Tensor) -> Tensor:
    """(B, 2) logits of (B, 3) rows."""
    return inputs @ MATRIX.T


def of_lenet(**settings: object) -> Attribution:
    network = LeNet(width=4).eval()
    return Attribution(network, last_convolution(network), **settings)  # type: ignore[arg-type]  # settings of any type


@pytest.fixture(scope="module")
def lenet() -> Attribution:
    return of_lenet(steps=8, samples=4, secret=b"key")


def test_the_gradient_of_a_logit_is_a_row_of_the_matrix() -> None:
    inputs, classes = rows(4, shape=(3,)), torch.tensor([0, 1, 1, 0])
    maps = Attribution(linear, of="logit").explain(inputs, classes, "gradient")

    assert maps.kind is Kind.ATTRIBUTIONS
    assert torch.equal(maps.values, MATRIX[classes])


def test_probabilities_and_their_logarithms_have_their_own_gradients() -> None:
    inputs, classes = rows(4, shape=(3,)), torch.tensor([0, 1, 1, 0])
    chances = torch.softmax(linear(inputs), dim=1)
    mean = chances @ MATRIX
    log = Attribution(linear, of="log_probability").explain(inputs, classes, "gradient").values
    plain = Attribution(linear, of="probability").explain(inputs, classes, "gradient").values
    own = chances.gather(1, classes[:, None])

    assert torch.allclose(log, MATRIX[classes] - mean, atol=1e-6)
    assert torch.allclose(plain, own * log, atol=1e-6)


def test_integrated_gradients_add_up_to_the_difference() -> None:
    """The completeness axiom of Sundararajan et al., 2017."""
    explains = Attribution(linear, steps=128)
    inputs, classes = rows(3, shape=(3,)), torch.tensor([0, 1, 0])
    maps = explains.explain(inputs, classes, "integrated_gradients").values
    chosen = torch.log_softmax(torch.cat([linear(inputs), torch.zeros(3, 2)]), dim=1)
    here, there = (part.gather(1, classes[:, None])[:, 0] for part in chosen.split(3))

    assert torch.allclose(maps.sum(dim=1), here - there, atol=1e-4)


def test_input_x_gradient_is_their_product() -> None:
    inputs, classes = rows(4, shape=(3,)), torch.zeros(4, dtype=torch.int64)
    maps = Attribution(linear, of="logit").explain(inputs, classes, "input_x_gradient").values

    assert torch.allclose(maps, inputs * MATRIX[0])


@every_method
def test_maps_have_the_shape_of_the_rows(lenet: Attribution, method: Method) -> None:
    inputs = rows(3, shape=(1, 28, 28))
    maps = lenet.explain(inputs, torch.tensor([0, 5, 9]), method).values

    assert maps.shape == inputs.shape
    assert maps.dtype is torch.float32
    assert not maps.requires_grad
    assert bool(torch.isfinite(maps).all())


@every_method
def test_a_row_is_explained_alike_alone_and_in_a_batch(lenet: Attribution, method: Method) -> None:
    inputs, classes = rows(5, shape=(1, 28, 28)), torch.tensor([0, 5, 9, 1, 1])
    together = lenet.explain(inputs, classes, method).values
    alone = [lenet.explain(inputs[i : i + 1], classes[i : i + 1], method).values for i in range(5)]

    assert torch.allclose(together, torch.cat(alone), atol=1e-5 * float(together.abs().max()))


@every_method
def test_asked_again_the_map_is_the_same(lenet: Attribution, method: Method) -> None:
    inputs, classes = rows(2, shape=(1, 28, 28)), torch.tensor([0, 5])
    first, second = (lenet.explain(inputs, classes, method).values for _ in range(2))

    assert torch.equal(first, second)


def test_the_noise_of_smooth_grad_is_keyed() -> None:
    inputs, classes = rows(2, shape=(1, 28, 28)), torch.tensor([0, 5])
    network = LeNet(width=4).eval()
    ours, theirs = (
        Attribution(network, samples=2, secret=key).explain(inputs, classes, "smooth_grad").values
        for key in (b"ours", b"theirs")
    )

    assert not torch.allclose(ours, theirs)


def test_without_noise_smooth_grad_is_the_gradient(lenet: Attribution) -> None:
    still = Attribution(lenet.logits, samples=3, sigma=0.0)
    inputs, classes = rows(2, shape=(1, 28, 28)), torch.tensor([0, 5])
    maps = [still.explain(inputs, classes, way).values for way in ("smooth_grad", "gradient")]

    assert torch.allclose(*maps, atol=1e-7)


def test_grad_cam_points_up_only_and_at_the_channels_together() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()
    network(torch.zeros(1, 3, 8, 8))
    explains = Attribution(network, last_convolution(network))
    maps = explains.explain(rows(2, shape=(3, 8, 8)), torch.tensor([0, 1]), "grad_cam").values

    assert float(maps.min()) >= 0
    assert torch.equal(maps[:, 0], maps[:, 2])


def test_the_last_convolution_is_found_with_its_rectifier_and_none_where_there_is_none() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Linear(2, 2))
    rectified = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Linear(2, 2))

    assert last_convolution(plain) is plain[1]
    assert last_convolution(rectified) is rectified[2]
    assert last_convolution(nn.Linear(2, 2)) is None


@every_method
@pytest.mark.parametrize(("side", "most"), [(64, 64), (768, 1)])
def test_a_pass_is_bounded_by_the_size_of_its_rows(method: Method, side: int, most: int) -> None:
    passes: list[int] = []
    network = nn.Sequential(nn.Conv2d(1, 1, 8, stride=8), nn.Flatten(), nn.LazyLinear(2))

    def logits(inputs: Tensor) -> Tensor:
        passes.append(len(inputs))
        told: Tensor = network(inputs)
        return told

    inputs = torch.zeros(VALUES // 64**2 + 1 if side == 64 else 2, 1, side, side)
    explains = Attribution(logits, network[0], steps=3, samples=2)
    maps = explains.explain(inputs, torch.zeros(len(inputs)).long(), method).values

    assert maps.shape == inputs.shape
    assert max(passes) == most


def test_the_noise_of_smooth_grad_is_never_there_for_all_copies_at_once() -> None:
    row = torch.zeros(1, 1, 256, 256)
    explains = Attribution(lambda rows: rows.flatten(1)[:, :2], samples=64)
    explains.explain(row, torch.tensor([0]), "smooth_grad")  # whatever is made once
    tracemalloc.start()
    explains.explain(row, torch.tensor([0]), "smooth_grad")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 8 * row.numel() * row.element_size()


def test_rows_are_not_written_into(lenet: Attribution) -> None:
    inputs = rows(2, shape=(1, 28, 28))
    before = inputs.clone()
    lenet.explain(inputs, torch.tensor([0, 5]), "gradient")

    assert torch.equal(inputs, before)
    assert not inputs.requires_grad
    assert inputs.grad is None


def test_without_captum_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)

    with pytest.raises(ConfigError, match=r"pip install 'mantlet\[explain\]'"):
        require_captum()


def test_captum_is_not_imported_with_the_module() -> None:
    """It takes over a second, and most gateways explain nothing."""
    code = "import sys, mantlet.attribution; print('captum' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "False"


def test_captum_brings_no_torchvision() -> None:
    require_captum()

    assert "torchvision" not in sys.modules
