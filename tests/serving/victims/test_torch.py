"""Torch victims: the engine is ONNX Runtime where that gives the same answers, and eager torch elsewhere."""

from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
import torch
from torch import Tensor, nn

from mantlet import architectures, weights
from mantlet.data import Images
from mantlet.errors import ConfigError, WeightsError
from serving.victims.torch import TorchVictim
from tests.helpers import SETUP

Register = Callable[[str, type[nn.Module]], None]


class Linear(nn.Module):
    """Without ``embed``: shows no features. The base of the odd ones below."""

    input_shape: tuple[int, ...] = (6,)

    def __init__(self, *, classes: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(6, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)


class Branching(Linear):
    """Asks a question of its input in Python: the exporter keeps only the path it has seen."""

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.layer(inputs)
        return logits if float(inputs.sum()) == 0.0 else -logits


class FixedBatch(Linear):
    """Works eagerly on any batch, and when exported only on the batch it was exported with."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs.reshape(int(inputs.shape[0]), 6))


class NotExportable(Linear):
    """Leaves torch for Python, where no exporter follows."""

    def forward(self, inputs: Tensor) -> Tensor:
        return (
            torch.linalg.lstsq(inputs.T @ inputs + torch.eye(6), self.layer.weight.T)[0]
            .T[:1]
            .expand(len(inputs), -1)[:, :3]
        )


class Planes(Linear):
    """Features with axes for pixels."""

    def embed(self, inputs: Tensor) -> Tensor:
        return inputs.reshape(-1, 2, 3)

    def classify(self, features: Tensor) -> Tensor:
        return self.layer(features.flatten(1))


class Shapeless(Linear):
    input_shape = ()


class NoRows(Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs).sum(dim=1)


class OneClass(Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)[:, :1]


class Double(Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs).double()


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Adds an architecture for one test, as an installed package would."""
    return lambda name, network: monkeypatch.setitem(architectures.BUILTIN, name, network)  # type: ignore[arg-type]


def saved(path: Path, network: nn.Module) -> Path:
    weights.save(network, path, {})
    return path


def seeded(network: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        return network()


@pytest.fixture
def loaded(tmp_path: Path, register: Register) -> Callable[..., TorchVictim]:
    """Saves random weights of a class, registers it as ``odd`` and loads a victim of it."""

    def load(network: type[nn.Module], **settings: object) -> TorchVictim:
        register("odd", network)
        path = saved(tmp_path / "odd.safetensors", seeded(network))
        victim = TorchVictim.model_validate({"weights": path, "architecture": "odd"} | settings)
        victim.load(SETUP)
        return victim

    return load


def same_answers(one: TorchVictim, other: TorchVictim, inputs: Tensor) -> None:
    first, second = one.predict(inputs), other.predict(inputs)
    torch.testing.assert_close(first.values, second.values, atol=1e-5, rtol=0)
    assert first.logits is not None
    assert second.logits is not None
    torch.testing.assert_close(first.logits, second.logits, atol=1e-3, rtol=1e-4)
    if first.features is not None or second.features is not None:
        assert first.features is not None
        assert second.features is not None
        torch.testing.assert_close(first.features, second.features, atol=1e-3, rtol=1e-4)


def test_shipped_network_runs_in_onnx_runtime_and_answers_as_eager(
    root: Path, digits: Images, shipped_victim: TorchVictim
) -> None:
    eager = TorchVictim(
        weights=root / "configs/models/mnist-ini.safetensors",
        architecture="lenet",
        engine="torch",
    )
    with structlog.testing.capture_logs() as logged:
        eager.load(SETUP)
    inputs = torch.from_numpy(digits.x[:200])

    assert (shipped_victim.engine, eager.engine) == ("onnxruntime", "torch")
    assert logged[0]["reason"] == "the config says so"
    assert shipped_victim.predict(inputs).features is not None
    same_answers(shipped_victim, eager, inputs)
    for count in (1, 2, 33):
        same_answers(shipped_victim, eager, inputs[:count])


def test_residual_network_with_mean_and_std_answers_the_same_in_both_engines(
    tmp_path: Path,
) -> None:
    path = saved(
        tmp_path / "resnet.safetensors", seeded(lambda: architectures.ResNet(blocks=1, classes=7))
    )
    settings = {
        "weights": path,
        "architecture": "resnet",
        "settings": {"blocks": 1, "classes": 7},
        "mean": [0.49, 0.48, 0.45],
        "std": [0.25, 0.24, 0.26],
    }
    fast = TorchVictim.model_validate(settings | {"engine": "onnx"})
    eager = TorchVictim.model_validate(settings | {"engine": "torch"})
    plain = TorchVictim.model_validate(settings | {"mean": [], "std": []})
    for victim in (fast, eager, plain):
        victim.load(SETUP)
    inputs = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    by_hand = (inputs - torch.tensor(settings["mean"]).view(1, 3, 1, 1)) / torch.tensor(
        settings["std"]
    ).view(1, 3, 1, 1)

    assert (fast.engine, fast.classes, fast.input.shape) == ("onnxruntime", 7, (3, 32, 32))
    same_answers(fast, eager, inputs)
    torch.testing.assert_close(
        fast.predict(inputs).values, plain.predict(by_hand).values, atol=1e-5, rtol=0
    )


def test_rows_answer_alone_as_in_their_batch(shipped_victim: TorchVictim, digits: Images) -> None:
    inputs = torch.from_numpy(digits.x[:8])
    together = shipped_victim.predict(inputs).values
    alone = torch.cat([shipped_victim.predict(row[None]).values for row in inputs])

    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Branching, "ONNX Runtime answers differently: "),
        (FixedBatch, "cannot be exported: VictimError: ONNX Runtime cannot run (8, 6)"),
        (NotExportable, "cannot be exported: "),
    ],
)
def test_network_that_export_would_change_runs_eagerly_and_the_log_says_why(
    loaded: Callable[..., TorchVictim], network: type[nn.Module], reason: str
) -> None:
    with structlog.testing.capture_logs() as logged:
        victim = loaded(network)
    inputs = torch.rand(4, 6, generator=torch.Generator().manual_seed(2))
    wanted = torch.softmax(seeded(network)(inputs), dim=1)

    assert victim.engine == "torch"
    assert [entry["reason"].find(reason) >= 0 for entry in logged] == [True], logged
    torch.testing.assert_close(victim.predict(inputs).values, wanted)


@pytest.mark.parametrize("network", [Branching, NotExportable])
def test_insisting_on_onnx_runtime_is_refused_where_answers_differ(
    loaded: Callable[..., TorchVictim], network: type[nn.Module]
) -> None:
    with pytest.raises(ConfigError, match="engine 'onnx' cannot be used: "):
        loaded(network, engine="onnx")


def test_network_without_embed_shows_no_features(loaded: Callable[..., TorchVictim]) -> None:
    victim = loaded(Linear)
    answer = victim.predict(torch.rand(3, 6))

    assert victim.engine == "onnxruntime"
    assert answer.features is None
    assert answer.logits is not None


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_features_are_flat_whatever_their_axes(
    loaded: Callable[..., TorchVictim], engine: str
) -> None:
    features = loaded(Planes, engine=engine).predict(torch.ones(3, 6)).features

    assert features is not None
    assert features.shape == (3, 6)


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_double_precision_is_answered_in_single(
    loaded: Callable[..., TorchVictim], engine: str
) -> None:
    assert loaded(Double, engine=engine).predict(torch.ones(2, 6)).values.dtype is torch.float32


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Shapeless, r"does not say its input shape; set input_shape"),
        (NoRows, r"answers shape \(1,\) to one row; wanted \(1, classes\)"),
        (OneClass, r"answers shape \(1, 1\) to one row; wanted \(1, classes\), two classes or"),
    ],
)
def test_network_that_is_no_classifier_of_rows_is_refused(
    loaded: Callable[..., TorchVictim], network: type[nn.Module], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(network)


def test_input_shape_of_the_config_wins(loaded: Callable[..., TorchVictim]) -> None:
    assert loaded(Shapeless, input_shape=[6]).input.shape == (6,)


def test_input_shape_that_the_network_does_not_take_is_named(
    loaded: Callable[..., TorchVictim],
) -> None:
    with pytest.raises(ConfigError, match=r"does not take rows of shape \(5,\): .*set input_shape"):
        loaded(Linear, input_shape=[5])


def test_mean_of_another_number_of_channels_is_refused(root: Path) -> None:
    victim = TorchVictim(
        weights=root / "configs/models/mnist-lenet.safetensors",
        architecture="lenet",
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 1.0, 1.0),
    )

    with pytest.raises(ConfigError, match="mean has 3 numbers"):
        victim.load(SETUP)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"architecture": "lenett"}, ConfigError, r"'lenett' is unknown; did you mean 'lenet'\?"),
        ({"architecture": "resnet"}, WeightsError, "do not fit architecture 'resnet': missing"),
        ({"settings": {"width": 8}}, WeightsError, r"weight is \(.*\), wanted \(8, 1, 5, 5\)"),
        ({"settings": {"depth": 8}}, ConfigError, "does not take {'depth': 8}"),
        ({"settings": {"width": -1}}, ConfigError, "does not take {'width': -1}"),
        ({"settings": {"classes": 11}}, WeightsError, r"output.weight is \(10, 84\), wanted \(11"),
        ({"weights": "model.pth"}, WeightsError, "is a pickle .* mantlet convert"),
        ({"weights": "absent.safetensors"}, WeightsError, "no such file"),
        ({"weights": "configs/gateway/default.yaml"}, WeightsError, "not a safetensors file"),
    ],
)
def test_mistakes_are_named_with_their_remedy(
    root: Path, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    settings = {"weights": "configs/models/mnist-lenet.safetensors", "architecture": "lenet"}
    settings |= changes  # type: ignore[arg-type]  # any kind of setting
    victim = TorchVictim.model_validate(settings | {"weights": root / str(settings["weights"])})

    with pytest.raises(error, match=message):
        victim.load(SETUP)


def test_weights_that_are_not_finite_are_refused_at_load(
    tmp_path: Path, register: Register
) -> None:
    network = seeded(Linear)
    network.layer.bias.data[0] = float("nan")  # type: ignore[union-attr]
    register("odd", Linear)
    path = saved(tmp_path / "odd.safetensors", network)

    with pytest.raises(ConfigError, match="answers values that are not finite; is it damaged"):
        TorchVictim(weights=path, architecture="odd").load(SETUP)


def test_fingerprint_is_that_of_the_weight_file(root: Path, shipped_victim: TorchVictim) -> None:
    path = root / "configs/models/mnist-ini.safetensors"

    assert shipped_victim.fingerprint == weights.fingerprint(path)


def test_weights_say_how_they_were_trained_to_resist(
    shipped_victim: TorchVictim, plain_victim: TorchVictim
) -> None:
    assert shipped_victim.trained_with == "ini"
    assert plain_victim.trained_with == ""


def test_loading_again_gives_the_same_answers(loaded: Callable[..., TorchVictim]) -> None:
    victim = loaded(Linear)
    inputs = torch.rand(2, 6)
    before = victim.predict(inputs).values
    victim.load(SETUP)

    torch.testing.assert_close(victim.predict(inputs).values, before, atol=0, rtol=0)
