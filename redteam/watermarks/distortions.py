"""What is done to pictures before somebody looks for a mark: each as a picture is saved and opened again."""

import io
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Distortion = Callable[[Tensor, np.random.Generator], Tensor]
"""From (n, C, H, W) pictures of 8 bits in [0, 1] to others, maybe of another size."""


def levels(images: Tensor) -> Tensor:
    """Rounded to 8 bits, as a file holds them."""
    return (images.clamp(0, 1) * 255).round() / 255


def jpeg(images: Tensor, rng: np.random.Generator, *, quality: int) -> Tensor:
    """Saved as JPEG."""

    def saved(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _each(images, saved)


def resized(images: Tensor, rng: np.random.Generator, *, scale: float) -> Tensor:
    """Made smaller and brought back, bilinear."""

    def back(image: Image.Image) -> Image.Image:
        sides = (round(image.width * scale), round(image.height * scale))
        small = image.resize(sides, Image.Resampling.BILINEAR)
        return small.resize(image.size, Image.Resampling.BILINEAR)

    return _each(images, back)


def noisy(images: Tensor, rng: np.random.Generator, *, sigma: float) -> Tensor:
    """With Gaussian noise."""
    drawn = rng.standard_normal(images.shape, dtype=np.float32)
    return levels(images + sigma * torch.from_numpy(drawn))


def cropped(images: Tensor, rng: np.random.Generator, *, side: float) -> Tensor:
    """A share of each side is kept, all from one place that nobody tells."""
    height, width = (round(side * s) for s in images.shape[-2:])
    down = int(rng.integers(0, images.shape[-2] - height + 1))
    across = int(rng.integers(0, images.shape[-1] - width + 1))
    return images[..., down : down + height, across : across + width]


def cropped_each(images: Tensor, rng: np.random.Generator, *, side: float) -> Tensor:
    """As `cropped`, each picture from another place."""
    return torch.cat([cropped(image[None], rng, side=side) for image in images])


def brighter(images: Tensor, rng: np.random.Generator, *, factor: float) -> Tensor:
    """Multiplied, and clipped at white."""
    return levels(images * factor)


def mirrored(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Left and right exchanged."""
    return images.flip(-1)


def untouched(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Nothing is done."""
    return images


def _each(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    changed = []
    for image in (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        opened = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        values = np.asarray(change(opened), dtype=np.float32) / 255
        changed.append(torch.from_numpy(values.reshape(*values.shape[:2], -1)))
    return torch.stack(changed).permute(0, 3, 1, 2)


LARGE: Mapping[str, Distortion] = {
    "none": untouched,
    "jpeg 90": partial(jpeg, quality=90),
    "jpeg 70": partial(jpeg, quality=70),
    "jpeg 50": partial(jpeg, quality=50),
    "noise 0.05": partial(noisy, sigma=0.05),
    "resize to half and back": partial(resized, scale=0.5),
    "crop 90 %": partial(cropped_each, side=0.9),
    "crop 70 %": partial(cropped_each, side=0.7),
    "brightness x1.3": partial(brighter, factor=1.3),
    "mirror": mirrored,
}
"""Of photographs."""
SMALL: Mapping[str, Distortion] = {
    "none": untouched,
    "jpeg 70": partial(jpeg, quality=70),
    "crop 80 %": partial(cropped, side=0.8),
    "crop 80 %, each elsewhere": partial(cropped_each, side=0.8),
    "resize to half and back": partial(resized, scale=0.5),
    "noise 0.05": partial(noisy, sigma=0.05),
    "mirror": mirrored,
}
"""Of what small generators draw."""
