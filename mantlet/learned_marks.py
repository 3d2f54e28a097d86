"""Networks that write a message into pictures of 28x28, and read it again."""

from pathlib import Path

import torch
from torch import Tensor, nn

from mantlet import weights
from mantlet.likeness import ROUNDING, added

SIDE = 28
"""Pictures are looked at in that many pixels a side."""
LENGTH = 96
"""Signs of a message."""
STEP = 0.0126
"""A change of 38 dB: the unit of what is read."""
LOUDEST = 4.0
"""In those units: no pixel speaks louder."""
CHUNK = 500
"""Pictures that are read at once."""


class Painter(nn.Module):
    """A pattern, changed to suit the picture that it goes into."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(2, 12, 3, 1, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, 1, 1), nn.ReLU()
        )
        self.gate = nn.Conv2d(12, 2, 3, 1, 1)
        _start_at_zero(self.gate)

    def forward(self, pictures: Tensor, patterns: Tensor) -> Tensor:
        """(B, 1, 28, 28) patterns of mean square 1 from such patterns, for pictures in [0, 1]."""
        strength, change = self.gate(self.look(torch.cat([pictures, patterns], dim=1))).chunk(2, 1)
        painted: Tensor = patterns * (1 + strength) + change
        return painted * (painted.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-8).rsqrt()


class Cleaner(nn.Module):
    """What is left of a picture where the picture itself is taken away."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(2, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU()
        )
        self.gate = nn.Conv2d(16, 2, 3, 1, 1)
        _start_at_zero(self.gate)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 1, 28, 28) of pictures in [0, 1], in units of a mark of 38 dB."""
        smooth = nn.functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
        fine = ((pictures - smooth) / STEP).clamp(-LOUDEST, LOUDEST)
        strength, change = self.gate(self.look(torch.cat([pictures, fine], dim=1))).chunk(2, 1)
        cleaned: Tensor = fine * (1 + strength) + change
        return cleaned


def _start_at_zero(layer: nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class LearnedMark(nn.Module):
    """A carrier for each sign of a message, what paints their sum into a picture, and what reads it there.

    Writer and reader have the carriers in common: what is cleaned of a picture is compared with each.
    """

    def __init__(self) -> None:
        super().__init__()
        noise = torch.randn(1, LENGTH, SIDE, SIDE)
        smooth = nn.functional.avg_pool2d(noise, 3, 1, 1)
        self.carriers = nn.Parameter((smooth / smooth.std()).view(LENGTH, -1) / SIDE)
        self.painter = Painter()
        self.cleaner = Cleaner()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(torch.zeros(LENGTH))

    @classmethod
    def load(cls, path: Path) -> "LearnedMark":
        """Networks of a safetensors file, not to be trained; raises `WeightsError`."""
        networks = cls()
        weights.load_into(networks, path, "learned mark")
        return networks.eval().requires_grad_(False)

    def save(self, path: Path, about: dict[str, str]) -> None:
        """Write the weights in half precision, which is enough to read and to write."""
        halved = {name: value.half() for name, value in self.state_dict().items()}
        weights.save_tensors(halved, path, about)

    def embed(self, pictures: Tensor, messages: Tensor, psnr: float) -> Tensor:
        """(B, C, H, W) pictures in [0, 1] with (B, LENGTH) signs in them, each at ``psnr`` dB or more.

        Pictures of another size or in colours get what their small grey pictures get.
        """
        sums = (messages @ self.carriers / LENGTH**0.5 * SIDE).view(-1, 1, SIDE, SIDE)
        pattern: Tensor = self.painter(small(pictures), sums)
        if pictures.shape[-2:] != pattern.shape[-2:]:
            pattern = _resized(pattern, pictures.shape[-2], pictures.shape[-1])
        return added(pictures, pattern, 10 ** (-psnr / 10) - ROUNDING)

    def read(self, pictures: Tensor) -> Tensor:
        """(B, LENGTH) log-odds of the signs in (B, C, H, W) pictures."""
        parts = torch.split(small(pictures), CHUNK)
        cleaned = torch.cat([self.cleaner(part) for part in parts]).flatten(1)
        return cleaned @ self.carriers.T * self.scale + self.bias


def small(pictures: Tensor) -> Tensor:
    """(B, C, H, W) pictures as grey ones of 28x28."""
    grey = pictures.mean(dim=1, keepdim=True)
    return grey if grey.shape[-2:] == (SIDE, SIDE) else _resized(grey, SIDE, SIDE)


def _resized(pictures: Tensor, height: int, width: int) -> Tensor:
    return nn.functional.interpolate(
        pictures, size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )
