"""Many pictures on one, so that a person sees what a generator makes."""

import math

import numpy as np
from PIL import Image
from torch import Tensor

from mantlet.errors import ConfigError

GAP = 2
"""Black pixels between pictures."""


def contact_sheet(images: Tensor, *, columns: int = 0) -> Image.Image:
    """One picture of (n, C, H, W) grey or RGB pictures in [0, 1], row by row.

    As wide as high by default; places left over stay black. Raises `ConfigError` for none, and for other
    channels than 1 or 3.
    """
    if images.ndim != 4 or not len(images) or images.shape[1] not in (1, 3):
        raise ConfigError(
            f"a sheet of pictures of shape {tuple(images.shape)}; wanted (n, 1 or 3, H, W)"
        )
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy(force=True)
    sheet = np.zeros(
        (rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels), np.uint8
    )
    for number, picture in enumerate(pixels):
        top, left = number // columns * (height + GAP), number % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = picture
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
