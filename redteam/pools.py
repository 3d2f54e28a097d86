"""The real pictures that clients and thieves draw from, as 28x28 grey bytes from .npz files."""

import io
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from mantlet.errors import ConfigError

FILES = {
    "mnist": "mnist.npz",
    "fashion": "fashion_mnist.npz",
    "notmnist": "notmnist10k.npz",
    "omniglot": "omniglot28.npz",
    "cifar": "cifar10_jpeg.npz",
}
"""Files by family: ``x_SPLIT`` (n, 28, 28) and ``y_SPLIT``, or ``jpeg_SPLIT`` with ``offset_SPLIT``."""
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

    def pictures(self, family: str, split: str) -> np.ndarray:
        """(n, 1, 28, 28) uint8 of the ``train`` or ``test`` split."""
        with np.load(self.path(family), allow_pickle=False) as file:
            if f"x_{split}" in file:
                grey: np.ndarray = file[f"x_{split}"][:, None]
                return grey
            encoded, offset = file[f"jpeg_{split}"].tobytes(), file[f"offset_{split}"]
        bounds = pairwise(offset[: DECODED + 1])
        return np.stack([_grey(encoded[start:stop]) for start, stop in bounds])[:, None]

    def labels(self, family: str, split: str) -> np.ndarray:
        """(n,) class numbers of a split."""
        with np.load(self.path(family), allow_pickle=False) as file:
            labels: np.ndarray = file[f"y_{split}"].astype(np.int64)
            return labels


def _grey(jpeg: bytes) -> np.ndarray:
    """One picture in grey at 28x28."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        return np.asarray(picture.convert("L").resize(SHAPE[1:], Image.Resampling.BILINEAR))
