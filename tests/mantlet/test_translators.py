"""Networks from pictures to pictures."""

import pytest
import torch

from mantlet import architectures
from mantlet.errors import ConfigError
from mantlet.translators import Superres


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_size_become_scale_times_as_large(scale: int, channels: int) -> None:
    network = architectures.build("superres", {"scale": scale, "channels": channels})
    for height, width in ((1, 1), (7, 12)):
        answer = network(torch.rand(2, channels, height, width))

        assert answer.shape == (2, channels, scale * height, scale * width)


@pytest.mark.parametrize("depth", [1, 2])
def test_pixels_beyond_the_radius_have_no_say(depth: int) -> None:
    network = Superres(depth=depth).double()
    middle = 12
    picture = torch.rand(1, 1, 25, 25, dtype=torch.float64, requires_grad=True)
    network(picture)[0, 0, 2 * middle, 2 * middle].backward()
    assert picture.grad is not None
    seen = picture.grad[0, 0].abs().nonzero() - middle

    assert seen.abs().max() == network.radius


@pytest.mark.parametrize("wrong", [{"scale": 3}, {"channels": 4}])
def test_other_scales_and_channels_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="scale must be 1, 2 or 4, and channels 1 or 3"):
        architectures.build("superres", wrong)
