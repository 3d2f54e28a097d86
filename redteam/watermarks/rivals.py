"""Other marks of 32 bits for photographs, of the package ``invisible-watermark``, behind one interface."""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mantlet.errors import ConfigError

BITS = 32


class Method(Protocol):
    """Writes 32 bits into one (1, 3, H, W) picture of 8 bits in [0, 1], and reads them."""

    def embed(self, image: Tensor, bits: np.ndarray) -> Tensor: ...
    def decode(self, image: Tensor) -> np.ndarray: ...


class Rival:
    """A class of the package's ``module``, made anew for every picture, as the package does."""

    def __init__(self, module: str, name: str) -> None:
        try:
            self._coder: Any = getattr(importlib.import_module(f"imwatermark.{module}"), name)
        except ImportError as error:
            raise ConfigError(
                f"the benchmark of marks needs {error.name}; make bench-watermark installs it"
            ) from error
        if hasattr(self._coder, "loadModel"):
            self._coder.loadModel()

    def embed(self, image: Tensor, bits: np.ndarray) -> Tensor:
        marked = self._coder(bits.tolist(), BITS).encode(_blue_first(image))
        values = torch.from_numpy(np.ascontiguousarray(marked[..., ::-1]))
        return values.permute(2, 0, 1)[None].float() / 255

    def decode(self, image: Tensor) -> np.ndarray:
        return np.asarray(self._coder([], BITS).decode(_blue_first(image))).astype(int)


def _blue_first(image: Tensor) -> np.ndarray:
    """(H, W, 3) 8-bit pixels, blue, green and red, as OpenCV has them."""
    pixels = (image[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(pixels[..., ::-1])


METHODS: Mapping[str, Callable[[], Method]] = {
    "rivagan": partial(Rival, "rivaGan", "RivaWatermark"),
    "dwt-dct-svd": partial(Rival, "dwtDctSvd", "EmbedDwtDctSvd"),
}
"""RivaGAN (Zhang, Xu, Cuesta-Infante and Veeramachaneni, 2019), a network, and one of singular values."""
