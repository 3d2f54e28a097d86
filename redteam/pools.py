"""The real pictures that clients and thieves draw from, as bytes from .npz files: 28x28 grey, or in color."""

import argparse
import io
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from mantlet.errors import ConfigError
from redteam.glyphs import glyphs

FILES = {
    "mnist": "mnist.npz",
    "mnist-test": "mnist-test.npz",
    "fashion": "fashion_mnist.npz",
    "notmnist": "notmnist10k.npz",
    "omniglot": "omniglot28.npz",
    "cifar": "cifar10_jpeg.npz",
    "tinyimagenet": "tinyimagenet32_jpeg.npz",
}
"""Files by family: ``x_SPLIT`` (n, 28, 28) and ``y_SPLIT``, or ``jpeg_SPLIT`` with ``offset_SPLIT``."""
MADE = "glyphs"
"""The family that needs no file."""
FAMILIES = (*FILES, MADE)
SHAPE = (1, 28, 28)
DECODED = 10_000
"""Pictures that are taken of a file of JPEGs."""


@dataclass(frozen=True, slots=True)
class Pools:
    """Families of pictures in a folder."""

    folder: Path

    def path(self, family: str) -> Path:
        """The family's file; raises `ConfigError` where it is missing."""
        path = self.folder / FILES[family]
        if not path.is_file():
            raise ConfigError(f"data '{path}': no such file; name the folder of {FILES[family]}")
        return path

    def pictures(
        self, family: str, split: str, shape: tuple[int, ...] = SHAPE, count: int = DECODED
    ) -> np.ndarray:
        """(n, *shape) uint8 of the ``train`` or ``test`` split; of JPEGs the first ``count``."""
        if family == MADE:
            return glyphs()
        with np.load(self.path(family), allow_pickle=False) as file:
            if f"x_{split}" in file:
                grey: np.ndarray = file[f"x_{split}"][:, None]
                return grey if shape == SHAPE else np.stack([_shaped(p[0], shape) for p in grey])
            encoded, offset = file[f"jpeg_{split}"].tobytes(), file[f"offset_{split}"]
        bounds = pairwise(offset[: count + 1])
        return np.stack([_decoded(encoded[start:stop], shape) for start, stop in bounds])

    def labels(self, family: str, split: str) -> np.ndarray:
        """(n,) class numbers of a split."""
        with np.load(self.path(family), allow_pickle=False) as file:
            labels: np.ndarray = file[f"y_{split}"].astype(np.int64)
            return labels


def arguments(about: str | None, work: str = "") -> argparse.ArgumentParser:
    """What the benches' command lines share: folder of the pictures, file of the results, ``work`` folder if any."""
    parser = argparse.ArgumentParser(description=about)
    data = os.environ.get("MANTLET_DATA")
    parser.add_argument("--data", type=Path, default=data, required=not data)
    if work:
        parser.add_argument("--work", type=Path, default=Path(".mantlet") / work)
    parser.add_argument("--out", type=Path, required=True)
    return parser


def _decoded(jpeg: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """One JPEG in grey or in color, as large as ``shape`` says."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        return _shaped(np.asarray(picture.convert("RGB" if shape[0] == 3 else "L")), shape)


def _shaped(picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 as (C, H, W) of that shape."""
    channels, height, width = shape
    image = Image.fromarray(picture).convert("RGB" if channels == 3 else "L")
    sized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return sized[None] if channels == 1 else sized.transpose(2, 0, 1)
