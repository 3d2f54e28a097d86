"""What a thief does with stolen pictures before its generator learns from them, in the hope that a mark is lost."""

import io
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, PositiveFloat, model_validator
from torch import Tensor, nn

from defenses.watermark.seeing import residual
from redteam.learning import seeded

ROWS = 500
"""Pictures that are worked on at once."""
CODE = 24
"""Numbers through which the autoencoder passes a picture."""
UPDATES, BATCH, RATE = 600, 64, 1e-3
"""How it is trained, by Adam."""
TWICE = 2.0
"""How much of a mean residue is taken away: a filter lets half of a pattern through."""


class Wash(BaseModel):
    """One way to wash: ``how``, and how strongly.

    ``median`` of a window of ``strength`` pixels a side; ``jpeg`` of quality ``strength``; ``blur``, Gaussian, of a
    standard deviation of ``strength`` pixels; ``autoencoder``, trained on the pictures for ``strength`` times 600 updates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    how: Literal["median", "jpeg", "blur", "autoencoder", "black", "residue"]
    strength: PositiveFloat

    @model_validator(mode="after")
    def _takes(self) -> "Wash":
        whole = self.strength == int(self.strength)
        if self.how == "median" and not (whole and self.strength % 2 and self.strength <= 9):
            raise ValueError(f"median of {self.strength:g} pixels; take 3, 5, 7 or 9")
        if self.how == "jpeg" and not (whole and self.strength <= 95):
            raise ValueError(f"jpeg of quality {self.strength:g}; take a whole number from 1 to 95")
        if self.how == "black" and self.strength >= 1:
            raise ValueError(f"black below {self.strength:g}; take less than 1")
        if self.how == "residue" and not whole:
            raise ValueError(f"residue of {self.strength:g} pictures; take a whole number")
        if self.strength > 95 and self.how != "residue":
            raise ValueError(f"{self.how} of {self.strength:g}; take 95 or less")
        return self

    def apply(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """(n, C, H, W) washed pictures in [0, 1] of as many."""
        if self.how == "median":
            return median(pictures, int(self.strength))
        if self.how == "jpeg":
            return jpeg(pictures, int(self.strength))
        if self.how == "blur":
            return blur(pictures, self.strength)
        if self.how == "black":
            return pictures.where(pictures >= self.strength, 0)
        if self.how == "residue":
            return less_residue(pictures, int(self.strength))
        return redrawn(pictures, generator, updates=max(1, round(UPDATES * self.strength)))


def median(pictures: Tensor, side: int) -> Tensor:
    """The median of every pixel's window, edges repeated."""
    reach = side // 2
    parts = []
    for part in torch.split(pictures, ROWS):
        padded = nn.functional.pad(part, (reach,) * 4, mode="replicate")
        windows = padded.unfold(2, side, 1).unfold(3, side, 1).flatten(4)  # (n, C, H, W, side^2)
        parts.append(windows.median(dim=-1).values)
    return torch.cat(parts)


def blur(pictures: Tensor, sigma: float) -> Tensor:
    """Convolved with a Gaussian, edges repeated."""
    reach = max(1, int(3 * sigma + 0.5))
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    weights = torch.exp(-steps.square() / (2 * sigma**2))
    weights /= weights.sum()
    count, channels, height, width = pictures.shape
    flat = pictures.reshape(count * channels, 1, height, width)
    down = nn.functional.pad(flat, (0, 0, reach, reach), mode="replicate")
    down = nn.functional.conv2d(down, weights.view(1, 1, -1, 1))
    across = nn.functional.pad(down, (reach, reach, 0, 0), mode="replicate")
    across = nn.functional.conv2d(across, weights.view(1, 1, 1, -1))
    return across.reshape(pictures.shape).clamp(0, 1)


def less_residue(pictures: Tensor, count: int) -> Tensor:
    """Less twice what the first ``count`` pictures have in common where a filter takes it for noise."""
    common = residual(pictures[:count]).mean(dim=0, keepdim=True)
    return (pictures - TWICE * common).clamp(0, 1)


def jpeg(pictures: Tensor, quality: int) -> Tensor:
    """Compressed and opened again."""
    pixels = (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy(force=True)
    grey = pictures.shape[1] == 1
    opened = []
    for picture in pixels:
        file = io.BytesIO()
        Image.fromarray(picture[..., 0] if grey else picture).save(file, "JPEG", quality=quality)
        opened.append(np.asarray(Image.open(file)))
    back = torch.from_numpy(np.stack(opened)).float() / 255
    return back.unsqueeze(1) if grey else back.permute(0, 3, 1, 2).contiguous()


def redrawn(pictures: Tensor, generator: torch.Generator, *, updates: int = UPDATES) -> Tensor:
    """What an autoencoder, trained on the pictures by squared error, makes of them."""
    size = pictures[0].numel()
    with seeded(generator):
        network = nn.Sequential(
            nn.Flatten(), nn.Linear(size, 256), nn.ReLU(), nn.Linear(256, CODE),
            nn.Linear(CODE, 256), nn.ReLU(), nn.Linear(256, size), nn.Sigmoid(),
            nn.Unflatten(1, pictures.shape[1:]),
        )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    for _ in range(updates):
        rows = torch.randint(len(pictures), (BATCH,), generator=generator)
        loss = nn.functional.mse_loss(network(pictures[rows]), pictures[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
    with torch.inference_mode():
        return torch.cat([network(part) for part in torch.split(pictures, ROWS)]).clone()
