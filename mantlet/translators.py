"""Small networks that turn pictures into pictures of any size, to be served and to be stolen."""

from typing import Any

from torch import Tensor, nn


class Superres(nn.Module):
    """Enlarges pictures ``scale`` times: bilinear, plus what a sub-pixel network adds (Shi et al., 2016).

    ``depth`` convolutions of 3x3 lie between the first of 5x5 and the last, whose channels become pixels.
    ``channels`` is 1 (grey) or 3 (RGB). With a ``scale`` of 1 it is a filter that keeps the size. Edges
    are continued, not padded with black, so that a border looks like the rest.
    """

    task = "translate"
    output_range = (0.0, 1.0)

    def __init__(
        self, *, scale: int = 2, channels: int = 1, width: int = 16, depth: int = 1
    ) -> None:
        super().__init__()
        if scale not in (1, 2, 4) or channels not in (1, 3):
            raise ValueError("scale must be 1, 2 or 4, and channels 1 or 3")
        self.scale = scale
        self.input_shape = (channels, -1, -1)
        edge: dict[str, Any] = {"padding_mode": "replicate"}
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 5, padding=2, **edge), nn.ReLU()]
        for _ in range(depth):
            layers += [nn.Conv2d(width, width, 3, padding=1, **edge), nn.ReLU()]
        last = nn.Conv2d(width, channels * scale**2, 3, padding=1, **edge)
        self.layers = nn.Sequential(*layers, last, nn.PixelShuffle(scale))
        self.radius = 3 + depth
        """Input pixels around one that have a say in what it becomes."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, scale H, scale W) of (B, C, H, W) pictures in [0, 1]; it may leave that range a little."""
        base = inputs
        if self.scale > 1:
            base = nn.functional.interpolate(inputs, scale_factor=self.scale, mode="bilinear")
        added: Tensor = self.layers(inputs)
        return base + added
