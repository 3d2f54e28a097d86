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
MOST, POINTS = 5, 20
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
    """(n, C, H, W) uint8: two to five quadratic curves of one width, light on dark."""
    sizes = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
    return np.concatenate([_strokes(size, shape, rng) for size in sizes])


def _strokes(count: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    channels, height, width = shape
    places = np.array([height, width], np.float32) - 1
    control = (rng.uniform(0.1, 0.9, (count, MOST, 3, 2)) * places).astype(np.float32)
    along = np.linspace(0, 1, POINTS, dtype=np.float32)
    bent = np.stack([(1 - along) ** 2, 2 * along * (1 - along), along**2])  # (3, points)
    curve = np.einsum("kp,nskd->nspd", bent, control)  # (n, strokes, points, 2)
    curve[np.arange(MOST) >= rng.integers(2, MOST + 1, (count, 1))] = 4 * max(height, width)
    flat = curve.reshape(count, MOST * POINTS, 2)
    rows, columns = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    down = (flat[:, :, 0, None] - rows) ** 2  # (n, q, H)
    right = (flat[:, :, 1, None] - columns) ** 2  # (n, q, W)
    nearest = np.full((count, height, width), np.inf, np.float32)
    for q in range(MOST * POINTS):
        np.minimum(nearest, down[:, q, :, None] + right[:, q, None, :], out=nearest)
    thick = rng.uniform(0.3, 1.8, (count, 1, 1)).astype(np.float32) * width / 28
    level = np.clip(thick + 0.7 - np.sqrt(nearest), 0, 1)
    return np.repeat((255 * level).astype(np.uint8)[:, None], channels, axis=1)


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
