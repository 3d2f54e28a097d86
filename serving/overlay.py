"""Explanations for eyes: each row in grey, with what speaks for its class in red and what against it in blue."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from mantlet import regions
from mantlet.sheets import contact_sheet

SIDE = 224
"""A row is shown at least that high and wide, in pixels."""
LINE = 22
"""Height of the line of text below it."""
FOR, AGAINST = (0.93, 0.11, 0.14), (0.10, 0.35, 0.95)
STRONGEST = 0.8
"""How far the colour of the strongest place covers the picture."""


def overlay(inputs: Tensor, maps: Tensor, captions: list[str]) -> Image.Image:
    """One picture of (n, 1 or 3, H, W) rows, their maps of the same shape, and a line of text for each.

    Rows and maps are stretched to what is largest in them. A map without a negative value has red alone.
    """
    grey = _stretched(inputs.mean(dim=1, keepdim=True))  # (n, 1, H, W)
    signed = maps.sum(dim=1, keepdim=True)
    share = regions.scaled(signed)
    # the faint parts of a signed map hold its shape; one without signs was made to be seen as it is
    bent = (share.flatten(1).amin(dim=1) < 0).view(-1, 1, 1, 1)
    cover = STRONGEST * torch.where(bent, share.abs().sqrt(), share.abs() ** 1.5)
    colours = torch.where(share >= 0, _colour(FOR), _colour(AGAINST))  # (n, 3, H, W)
    mixed = (1 - cover) * (0.15 + 0.7 * grey) + cover * colours
    times = max(1, -(-SIDE // max(inputs.shape[2:])))
    shown = nn.functional.interpolate(mixed, scale_factor=times, mode="nearest")
    return contact_sheet(
        torch.stack([_captioned(*pair) for pair in zip(shown, captions, strict=True)])
    )


def _stretched(grey: Tensor) -> Tensor:
    """Each row from 0 to 1."""
    flat = grey.flatten(1)
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    span = torch.where(high > low, high - low, torch.ones_like(high))
    return (grey - low.view(-1, 1, 1, 1)) / span.view(-1, 1, 1, 1)


def _colour(rgb: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rgb).view(1, 3, 1, 1)


def _captioned(shown: Tensor, caption: str) -> Tensor:
    """(3, H + line, W) of (3, H, W)."""
    line = Image.new("RGB", (shown.shape[2], LINE), "black")
    font = ImageFont.load_default(14)
    ImageDraw.Draw(line).text((5, 2), caption, fill="white", font=font)
    below = torch.from_numpy(np.asarray(line, np.float32) / 255).permute(2, 0, 1)
    return torch.cat([shown, below], dim=1)
