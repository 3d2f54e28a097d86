from pathlib import Path

import pytest
import torch
from torch import nn

from mantlet import architectures, weights
from mantlet.architectures import ResNet
from mantlet.errors import ConfigError, WeightsError
from mantlet.translators import Superres

CLASSIFIERS = [name for name, made in architectures.BUILTIN.items() if not hasattr(made, "task")]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_network_maps_its_input_to_logits_through_its_features(name: str) -> None:
    network = architectures.build(name, {"classes": 7}).eval()
    inputs = torch.rand(3, *network.input_shape)  # type: ignore[arg-type, misc]
    features = network.embed(inputs)  # type: ignore[operator]
    logits = network(inputs)

    assert logits.shape == (3, 7)
    assert features.shape[0] == 3
    assert torch.equal(network.classify(features), logits)  # type: ignore[operator]


def test_the_shortcut_of_a_wider_stage_pads_channels_and_takes_every_second_pixel() -> None:
    """With the convolutions silent, a block answers its shortcut alone (option A of He et al.)."""
    block = architectures._Block(2, 4, 2).eval()
    nn.init.zeros_(block.conv2.weight)
    inputs = torch.rand(1, 2, 4, 4)
    answer = block(inputs)

    assert torch.equal(answer[:, 1:3], inputs[:, :, ::2, ::2])
    assert not answer[:, [0, 3]].any()


@pytest.mark.parametrize(("blocks", "layers"), [(3, 20), (5, 32)])
def test_blocks_a_stage_give_the_depth_of_the_paper(blocks: int, layers: int) -> None:
    network = architectures.build("resnet", {"blocks": blocks})
    weighted = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]

    assert len(weighted) == layers


def test_a_small_residual_network_looks_at_half_the_pixels_with_more_channels() -> None:
    inputs = torch.rand(2, 3, 32, 32)
    small = ResNet(blocks=1, width=25, stride=2).eval()
    inner: list[torch.Size] = []
    small.layer1.register_forward_hook(lambda _, __, out: inner.append(out.shape))

    assert small(inputs).shape == (2, 10)
    assert small.embed(inputs).shape == (2, 100)
    assert inner[0] == (2, 25, 16, 16)


def test_a_residual_network_takes_grey_pictures_where_told() -> None:
    grey = architectures.build("resnet", {"blocks": 1, "width": 4, "channels": 1}).eval()

    assert grey.input_shape == (1, 32, 32)
    assert grey(torch.rand(2, 1, 32, 32)).shape == (2, 10)


def test_an_unknown_architecture_gets_a_hint() -> None:
    with pytest.raises(ConfigError, match="architecture 'lennet' is unknown; did you mean 'lenet'"):
        architectures.build("lennet", {})


@pytest.mark.parametrize("settings", [{"classs": 10}, {"width": -3}, {"classes": "ten"}])
def test_settings_that_a_network_does_not_take_are_named(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"'lenet' does not take .*{next(iter(settings))}"):
        architectures.build("lenet", settings)


def test_a_mistyped_setting_of_a_network_gets_a_hint() -> None:
    with pytest.raises(ConfigError, match=r"{'widht': 4}: did you mean 'width'"):
        architectures.build("lenet", {"widht": 4})


def test_a_trained_network_is_read_as_its_file_describes_it(root: Path) -> None:
    network = architectures.read(root / "configs/models/superres-x2.safetensors")

    assert isinstance(network, Superres)
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())


def test_a_file_that_names_no_architecture_is_refused(tmp_path: Path) -> None:
    weights.save(nn.Linear(2, 2), tmp_path / "linear.safetensors", {})

    with pytest.raises(WeightsError, match="names no architecture"):
        architectures.read(tmp_path / "linear.safetensors")
