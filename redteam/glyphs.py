"""A pool of foreign pictures that needs no file: letters of the font that Pillow brings, bent and thickened."""

import string

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COUNT = 10_000
SIDE = 28


def glyphs(count: int = COUNT, *, seed: int = 0) -> np.ndarray:
    """(count, 1, 28, 28) uint8, white on black; the same seed gives the same pictures on one machine.

    >>> glyphs(2).shape
    (2, 1, 28, 28)
    """
    rng = np.random.default_rng(seed)
    return np.stack([_glyph(rng) for _ in range(count)])[:, None]


def _glyph(rng: np.random.Generator) -> np.ndarray:
    """One letter in a size, a weight, a place, a slant and a turn of its own."""
    canvas = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(canvas).text(
        (SIDE / 2 + rng.uniform(-2, 2), SIDE / 2 + rng.uniform(-2, 2)),
        str(rng.choice(list(string.ascii_letters))),
        fill=255,
        font=ImageFont.load_default(float(rng.integers(18, 29))),
        anchor="mm",
        stroke_width=int(rng.integers(0, 2)),
    )
    turned = canvas.rotate(float(rng.uniform(-20, 20)), Image.Resampling.BILINEAR)
    slant = float(rng.uniform(-0.3, 0.3))
    shape = (1, slant, -slant * SIDE / 2, 0, 1, 0)
    return np.asarray(
        turned.transform((SIDE, SIDE), Image.Transform.AFFINE, shape, Image.Resampling.BILINEAR)
    )
