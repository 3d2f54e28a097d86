"""Networks are tried for gradients at load, and explained beside what runs their predictions."""

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mantlet import architectures, weights
from mantlet.architectures import LeNet
from mantlet.attribution import METHODS
from mantlet.data import Images
from mantlet.errors import ConfigError
from serving.explaining import Explain
from serving.victims.torch import TorchVictim
from tests.helpers import SETUP, rows


class Dense(nn.Module):
    """Without a convolution."""

    input_shape = (6,)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.layer(inputs)
        return logits


class Integer(Dense):
    """Computes with integers of eight bits."""

    def forward(self, inputs: Tensor) -> Tensor:
        steps = (inputs * 100).to(torch.int8).long()
        return (steps @ (self.layer.weight * 100).to(torch.int8).long().T).float()


class Rounding(Dense):
    """Rounds its inputs, as quantised networks do."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward((inputs * 100).round())


def victim_of(kind: type[Dense], folder: Path, monkeypatch: pytest.MonkeyPatch) -> TorchVictim:
    monkeypatch.setitem(architectures.BUILTIN, "odd", kind)  # type: ignore[arg-type]  # a dict in fact
    path = folder / "odd.safetensors"
    weights.save(kind(), path, {})
    victim = TorchVictim(weights=path, architecture="odd", engine="torch")
    victim.load(SETUP)
    return victim


def test_the_gradient_is_that_of_the_answers_though_onnx_runtime_gives_them(
    plain_victim: TorchVictim, digits: Images
) -> None:
    """By finite differences of the served answers."""
    explainer = plain_victim.explainer(Explain(of="probability"), b"key")
    inputs = torch.from_numpy(digits.x[:20])
    inputs = inputs[plain_victim.predict(inputs).values.amax(dim=1).argsort()[:2]]  # the least sure
    classes = plain_victim.predict(inputs).values.argmax(dim=1)
    maps = explainer.explain(inputs, classes, "gradient").values
    way = torch.nn.functional.normalize(maps.flatten(1)).view_as(maps)
    step = 1e-2
    there, here = (
        plain_victim.predict(inputs + side * way).values.gather(1, classes[:, None])[:, 0]
        for side in (step, -step)
    )

    assert plain_victim.engine == "onnxruntime"
    assert torch.allclose((there - here) / (2 * step), maps.flatten(1).norm(dim=1), rtol=0.05)


def test_normalisation_is_part_of_what_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "lenet.safetensors"
    weights.save(LeNet(), path, {})
    inputs, classes = rows(2, shape=(1, 28, 28)), torch.tensor([1, 2])
    maps = []
    for normalisation in ({}, {"mean": (0.0,), "std": (2.0,)}):
        victim = TorchVictim(weights=path, architecture="lenet", engine="torch", **normalisation)
        victim.load(SETUP)
        explainer = victim.explainer(Explain(of="logit"), b"key")
        maps.append(explainer.explain(2 * inputs if normalisation else inputs, classes, "gradient"))

    assert torch.allclose(maps[0].values, 2 * maps[1].values, atol=1e-6)


@pytest.mark.parametrize(("low", "start"), [(-1.0, -1.0), (0.0, 0.0), (None, 0.0)])
def test_integrated_gradients_begin_at_the_smallest_row_that_clients_may_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: float | None, start: float
) -> None:
    """Of a linear network they are the weights times the way; without a smallest value it begins at 0."""
    monkeypatch.setitem(architectures.BUILTIN, "odd", Dense)  # type: ignore[arg-type]  # a dict in fact
    network, path = Dense(), tmp_path / "odd.safetensors"
    weights.save(network, path, {})
    victim = TorchVictim(weights=path, architecture="odd", engine="torch", low=low)
    victim.load(SETUP)
    inputs, classes = rows(3, shape=(6,)), torch.tensor([0, 1, 2])
    explainer = victim.explainer(Explain(of="logit"), b"key")
    maps = explainer.explain(inputs, classes, "integrated_gradients").values

    assert torch.allclose(maps, (inputs - start) * network.layer.weight.detach(), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Integer, "models of integers have no gradients"), (Rounding, "zero everywhere")],
)
def test_models_of_integers_are_refused_at_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Dense], message: str
) -> None:
    victim = victim_of(kind, tmp_path, monkeypatch)

    with pytest.raises(ConfigError, match=message):
        victim.explainer(Explain(), b"key")


def test_without_a_convolution_grad_cam_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = victim_of(Dense, tmp_path, monkeypatch)

    assert victim.explainer(Explain(), b"key").methods == METHODS[:-1]


def test_without_a_convolution_grad_cam_by_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = victim_of(Dense, tmp_path, monkeypatch)

    with pytest.raises(ConfigError, match="grad_cam needs a convolution"):
        victim.explainer(Explain(methods=("grad_cam",)), b"key")


def test_a_layer_that_is_not_there_is_refused_with_those_that_are(
    plain_victim: TorchVictim,
) -> None:
    with pytest.raises(
        ConfigError, match=r"no layer 'conv9'; its convolutions are .*convolutions\.3"
    ):
        plain_victim.explainer(Explain(layer="conv9"), b"key")


def test_a_layer_may_be_named(plain_victim: TorchVictim) -> None:
    inputs, classes = rows(1, shape=(1, 28, 28)), torch.tensor([1])
    near, far = (
        plain_victim.explainer(Explain(layer=layer), b"key")
        .explain(inputs, classes, "grad_cam")
        .values
        for layer in ("convolutions.0", "convolutions.3")
    )

    assert not torch.allclose(near, far)


def test_predictions_beside_an_explanation_do_not_disturb_it(tmp_path: Path) -> None:
    """Grad-CAM listens to a layer while it runs; predictions of another thread pass by elsewhere."""
    path = tmp_path / "lenet.safetensors"
    weights.save(LeNet(), path, {})
    victim = TorchVictim(weights=path, architecture="lenet", engine="torch")
    victim.load(SETUP)
    explainer = victim.explainer(Explain(), b"key")
    inputs, classes = rows(2, shape=(1, 28, 28)), torch.tensor([1, 2])
    alone = explainer.explain(inputs, classes, "grad_cam").values
    over = threading.Event()

    def predict() -> None:
        while not over.is_set():
            victim.predict(torch.zeros(2, 1, 28, 28))

    other = threading.Thread(target=predict)
    other.start()
    beside = [explainer.explain(inputs, classes, "grad_cam").values for _ in range(20)]
    over.set()
    other.join()

    assert all(torch.equal(alone, maps) for maps in beside)
