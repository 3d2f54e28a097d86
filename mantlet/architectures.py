"""Networks by name, so that a weight file needs no code; others add theirs by entry point.

An architecture is a callable that builds an ``nn.Module`` from keyword settings. Its ``forward``
maps (B, *input_shape) to logits (B, C). Where it also has ``embed`` (to features (B, D)) and
``classify`` (from features to logits), detectors see the features.
"""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from mantlet import weights
from mantlet.errors import ConfigError, WeightsError
from mantlet.generators import DcganGenerator, MlpGenerator, WganGenerator
from mantlet.registry import describe, did_you_mean, load_entries
from mantlet.translators import Superres

GROUP = "mantlet.architectures"


class LeNet(nn.Module):
    """Two convolutions and two linear layers for 28x28 grey pictures, 10 classes by default.

    The layout of LeNet-5 (LeCun et al., 1998) with rectifiers, max-pooling and wider layers.
    """

    input_shape = (1, 28, 28)

    def __init__(self, *, classes: int = 10, width: int = 24) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, width, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(2 * width * 25, 84), nn.ReLU())
        self.output = nn.Linear(84, classes)

    def embed(self, inputs: Tensor) -> Tensor:
        """Features (B, 84) under the last layer."""
        features: Tensor = self.hidden(self.convolutions(inputs))
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of features."""
        logits: Tensor = self.output(features)
        return logits

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of (B, 1, 28, 28) pictures in [0, 1]."""
        return self.classify(self.embed(inputs))


class _Block(nn.Module):
    """A residual block whose shortcut takes every second pixel and pads channels with zeros."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        added = channels - channels_in
        self.pad = (added // 2, added - added // 2)

    def forward(self, inputs: Tensor) -> Tensor:
        kept = inputs[:, :, :: self.stride, :: self.stride]
        shortcut = nn.functional.pad(kept, (0, 0, 0, 0, *self.pad))
        hidden = self.bn2(self.conv2(nn.functional.relu(self.bn1(self.conv1(inputs)))))
        return nn.functional.relu(hidden + shortcut)


class ResNet(nn.Module):
    """The CIFAR residual network of He et al. (2016), section 4.2, with option-A shortcuts.

    ``blocks`` a stage: 3 gives ResNet-20, 5 gives ResNet-32. The stages have ``width`` channels and two
    and four times as many; a first layer of ``stride`` 2 looks at half the pixels. Input
    (B, channels, 32, 32).
    """

    def __init__(
        self,
        *,
        classes: int = 10,
        blocks: int = 3,
        width: int = 16,
        stride: int = 1,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.input_shape = (channels, 32, 32)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, blocks, 1)
        self.layer2 = self._stage(width, 2 * width, blocks, 2)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, 2)
        self.linear = nn.Linear(4 * width, classes)

    @staticmethod
    def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = _Block(channels_in, channels, stride)
        return nn.Sequential(first, *(_Block(channels, channels, 1) for _ in range(blocks - 1)))

    def embed(self, inputs: Tensor) -> Tensor:
        """Features (B, 4 width): the mean of the last stage over pixels."""
        hidden = nn.functional.relu(self.bn1(self.conv1(inputs)))
        features: Tensor = self.layer3(self.layer2(self.layer1(hidden))).mean(dim=(2, 3))
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of features."""
        logits: Tensor = self.linear(features)
        return logits

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of (B, channels, 32, 32) pictures, normalised as in training."""
        return self.classify(self.embed(inputs))


BUILTIN: Mapping[str, Callable[..., nn.Module]] = {
    "dcgan": DcganGenerator,
    "gan_mlp": MlpGenerator,
    "lenet": LeNet,
    "resnet": ResNet,
    "superres": Superres,
    "wgan": WganGenerator,
}


def known() -> dict[str, Callable[..., nn.Module]]:
    """Built-in architectures and those of the entry-point group ``mantlet.architectures``."""
    found = dict(BUILTIN)
    for entry, architecture in load_entries(GROUP):
        if not callable(architecture):
            raise ConfigError(f"{describe(entry)} cannot be called; name a class or a function")
        if found.get(entry.name, architecture) is not architecture:
            raise ConfigError(
                f"{describe(entry)}: the name '{entry.name}' is taken; rename one of the two"
            )
        found[entry.name] = architecture
    return found


def build(name: str, settings: Mapping[str, int | float | str | bool]) -> nn.Module:
    """A network by its registered name; raises `ConfigError` for an unknown name or setting."""
    architectures = known()
    if name not in architectures:
        raise ConfigError(f"architecture '{name}' is unknown; {did_you_mean(name, architectures)}")
    make = architectures[name]
    try:
        return make(**settings)
    except Exception as error:  # layers refuse sizes in many ways
        why = _unknown(make, settings) or error
        raise ConfigError(f"architecture '{name}' does not take {dict(settings)}: {why}") from error


def _unknown(make: Callable[..., nn.Module], settings: Iterable[str]) -> str:
    """What a setting that an architecture does not know may mean; nothing where it knows all, or any."""
    taken = inspect.signature(make).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return ""
    return next((did_you_mean(odd, taken) for odd in settings if odd not in taken), "")


def read(path: Path) -> nn.Module:
    """The network of a file, as its own metadata describes it, to answer and not to be trained."""
    try:
        recipe = json.loads(weights.metadata(path)["recipe"])
        name, settings = recipe["architecture"], recipe.get("settings", {})
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"weights '{path}': the file names no architecture; write its metadata 'recipe' as mantlet train does"
        ) from error
    network = build(name, settings)
    weights.load_into(network, path, name)
    return network.eval().requires_grad_(False)
