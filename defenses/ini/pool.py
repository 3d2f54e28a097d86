"""Foreign pictures drawn in code, so that induction knows more than the families it is given."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mantlet import foreign_training

Drawn = Literal["mixed", "strokes", "glyphs", "turned"]
"""Kinds of pictures drawn in code; see `drawn`."""
GLYPHS = "ABCDEFGHJKLMNPQRTUVWXYabcdefhjkmnprtuvwxy&%#@?!+=*<>{}[]~^$"
"""Letters and signs that are no digit, not even in a hurry."""
MOST, POINTS = 5, 36
"""Strokes of a picture, and points of each."""
CHUNK = 256
"""Pictures of strokes that are drawn at once; bounds the memory."""


def drawn(
    kinds: Sequence[Drawn],
    own: np.ndarray,
    labels: np.ndarray,
    foreign: np.ndarray,
    *,
    count: int,
    symmetric: Sequence[int],
    rng: np.random.Generator,
) -> np.ndarray:
    """About ``count`` pictures (n, C, H, W) uint8, as many of each kind.

    ``mixed`` shuffles, inverts and superposes ``own`` and ``foreign`` pictures and adds smooth noise;
    ``strokes`` are chance curves; ``glyphs`` are letters and signs; ``turned`` mirrors ``own`` pictures,
    or turns them by a quarter, but for those whose label is in ``symmetric``.
    """
    each = max(1, count // max(1, len(kinds)))
    shape = own.shape[1:]
    asymmetric = own[~np.isin(labels, symmetric)]
    draw: dict[Drawn, Callable[[], np.ndarray]] = {
        "mixed": lambda: foreign_training.made(own, foreign, each, rng),
        "strokes": lambda: strokes(each, shape, rng),
        "glyphs": lambda: glyphs(each, shape, rng),
        "turned": lambda: turned(asymmetric[rng.integers(0, len(asymmetric), each)], rng),
    }
    return np.concatenate([draw[kind]() for kind in kinds])


def strokes(count: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """(n, C, H, W) uint8: two to five strokes of a pen, light on dark.

    A stroke is a curve, an arc of an ellipse, two straight lines, or goes on where the last one ended.
    """
    sizes = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
    return np.concatenate([_strokes(size, shape, rng) for size in sizes])


def _strokes(count: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    channels, height, width = shape
    curve = _curves(count, rng)  # (n, strokes, points, 2) in the unit square
    drawn = np.arange(MOST) < rng.integers(2, MOST + 1, (count, 1))
    curve = np.where(drawn[:, :, None, None], curve, curve[:, :1])
    # pens keep to the middle of a picture, as writers do
    low, high = curve.min((1, 2), keepdims=True), curve.max((1, 2), keepdims=True)
    extent = rng.uniform(0.5, 0.85, (count, 1, 1, 2))
    curve = (curve - (low + high) / 2) / np.maximum(high - low, 0.2) * extent + 0.5
    flat = curve.reshape(count, -1, 2) * (np.array([height, width]) - 1)
    rows, columns = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    down = ((flat[:, :, 0, None] - rows) ** 2).astype(np.float32)  # (n, q, H)
    right = ((flat[:, :, 1, None] - columns) ** 2).astype(np.float32)  # (n, q, W)
    nearest = np.full((count, height, width), np.inf, np.float32)
    for q in range(flat.shape[1]):
        np.minimum(nearest, down[:, q, :, None] + right[:, q, None, :], out=nearest)
    thick = rng.uniform(0.1, 1.6, (count, 1, 1)).astype(np.float32) * width / 28
    light = rng.uniform(0.6, 1.0, (count, 1, 1)).astype(np.float32)
    level = light * np.clip(thick + 0.8 - np.sqrt(nearest), 0, 1)
    return np.repeat((255 * level).astype(np.uint8)[:, None], channels, axis=1)


def _curves(count: int, rng: np.random.Generator) -> np.ndarray:
    """(n, strokes, points, 2) in or near the unit square."""
    along = np.linspace(0, 1, POINTS)
    control = rng.uniform(0, 1, (count, MOST, 3, 2))
    goes_on = rng.random((count, MOST)) < 0.5
    for stroke in range(1, MOST):
        told = goes_on[:, stroke]
        control[told, stroke, 0] = control[told, stroke - 1, 2]
    bent = np.stack([(1 - along) ** 2, 2 * along * (1 - along), along**2])  # (3, points)
    before, after = np.clip(1 - 2 * along, 0, 1), np.clip(2 * along - 1, 0, 1)
    straight = np.stack([before, 1 - before - after, after])
    smooth = np.einsum("kp,nskd->nspd", bent, control)
    lines = np.einsum("kp,nskd->nspd", straight, control)
    start = rng.uniform(0, 2 * np.pi, (count, MOST, 1))
    angle = start + rng.uniform(2, 6.5, (count, MOST, 1)) * along
    radius = rng.uniform(0.08, 0.4, (count, MOST, 1, 2))
    arcs = control[:, :, :1] + radius * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    kind = rng.integers(0, 3, (count, MOST, 1, 1))
    return np.choose(kind, [smooth, lines, arcs])


def glyphs(count: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """(n, C, H, W) uint8: letters and signs, slanted, thin or fat, one in four dark on light."""
    channels, height, width = shape
    fonts = [ImageFont.load_default(size) for size in range(height // 2, height + 2, 2)]
    pictures = np.empty((count, height, width), np.uint8)
    for picture in pictures:
        image = Image.new("L", (width, height))
        ImageDraw.Draw(image).text(
            (width / 2 + rng.uniform(-2, 2), height / 2 + rng.uniform(-2, 2)),
            GLYPHS[rng.integers(len(GLYPHS))],
            fill=int(rng.integers(160, 256)),
            font=fonts[rng.integers(len(fonts))],
            anchor="mm",
            stroke_width=int(rng.integers(0, 3)),
        )
        slant, turn = rng.uniform(-0.4, 0.4, 2)
        middle = (width - 1) / 2, (height - 1) / 2
        matrix = (1, slant, -slant * middle[1], turn, 1, -turn * middle[0])
        image = image.transform(
            image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        picture[:] = 255 - np.asarray(image) if rng.random() < 0.25 else np.asarray(image)
    return np.repeat(pictures[:, None], channels, axis=1)


def turned(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, C, H, W): each picture mirrored, or turned by a quarter either way."""
    result = pictures.copy()
    how = rng.integers(0, 3, len(pictures))
    result[how == 0] = pictures[how == 0, :, :, ::-1]
    for side, turns in ((1, 1), (2, 3)):
        result[how == side] = np.rot90(pictures[how == side], turns, axes=(2, 3))
    return result
