"""Pictures of a suspect generator: from a folder or an array, drawn by a model file, or asked of a server."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mantlet.data import load_images
from mantlet.errors import ConfigError
from mantlet.plugin import Setup
from mantlet.types import Task, Victim
from serving.ownership import ADDRESS
from serving.victims.base import VictimPlugin
from serving.victims.onnx import OnnxVictim
from serving.victims.torch import TorchVictim
from serving.victims.upstream import UpstreamVictim

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
LARGEST = 1 << 24
"""Pixels of a picture that is opened."""
ROWS = 32
"""Latents that a model is asked at once."""
SIDES = 16
"""Sizes of pictures in one folder."""


@dataclass(frozen=True, slots=True)
class Opening:
    """How a suspect is opened: a weight file's ``architecture`` and its ``settings``, the ``headers`` that go to
    a server, and the ``output_range`` of numbers that stand for black and white.
    """

    architecture: str = ""
    settings: Mapping[str, int | float | str | bool] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    output_range: tuple[float, float] | None = None


PLAIN = Opening()


def pictures_of(
    name: str,
    count: int,
    *,
    like: Victim | None = None,
    opening: Opening = PLAIN,
    seed: int = 0,
) -> list[Tensor]:
    """At most ``count`` pictures (n, C, H, W) in [0, 1] of a suspect, a batch a size.

    ``name`` is a folder of pictures, a .npz or .npy, a .safetensors or .onnx generator, or the address of a served
    one; a model draws for the normal latents of ``seed``. ``like`` says what a server without metadata takes. Raises
    `ConfigError` for what holds and makes no pictures.
    """
    path = Path(name)
    if path.is_dir():
        return _of_folder(path, count)
    if path.suffix in (".npz", ".npy"):
        return [torch.from_numpy(load_images(path, "test", slice(count)).x)]
    untold = {} if like is None else _shapes(like)
    model = open_model(name, opening, untold=untold)
    with closing(model):
        model.load(Setup(torch.device("cpu"), b""))
        if model.task is not Task.GENERATE:
            raise ConfigError(f"suspect '{name}' is there to {model.task}, and not to generate")
        return [_drawn(model, count, seed)]


def _of_folder(folder: Path, count: int) -> list[Tensor]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ConfigError(
            f"folder '{folder}' has no pictures; wanted {', '.join(sorted(SUFFIXES))}"
        )
    sizes: dict[tuple[int, ...], list[Tensor]] = {}
    for picture in map(_opened, paths[:count]):
        sizes.setdefault(tuple(picture.shape), []).append(picture)
    if len(sizes) > SIDES:
        raise ConfigError(
            f"folder '{folder}' has pictures of {len(sizes)} sizes; {SIDES} are taken"
        )
    return [torch.stack(pictures) for pictures in sizes.values()]


def _opened(path: Path) -> Tensor:
    """(C, H, W) in [0, 1], grey or RGB."""
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > LARGEST:
                raise ConfigError(
                    f"picture '{path}' has {picture.width}x{picture.height} pixels; at most {LARGEST} are taken"
                )
            grey = picture.mode in ("1", "L", "LA")
            pixels = np.asarray(picture.convert("L" if grey else "RGB"), dtype=np.float32) / 255
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"picture '{path}' cannot be opened: {error}") from error
    return torch.from_numpy(pixels[None] if grey else np.moveaxis(pixels, 2, 0).copy())


def open_model(
    name: str,
    opening: Opening,
    *,
    task: Task = Task.GENERATE,
    untold: Mapping[str, Any] = {},
    scale: int = 1,
    luma: bool = False,
) -> VictimPlugin:
    """A model by its file or address, not loaded; ``untold`` are settings of a server without metadata."""
    about: dict[str, Any] = {"name": "suspect", "output_range": opening.output_range, "luma": luma}
    address = ADDRESS.fullmatch(name)
    if address:
        url, protocol, served = address.groups()
        known = {} if protocol == "v2" else untold
        about |= {"protocol": protocol, "task": task, "headers": opening.headers, **known}
        about |= {"scale": scale}
        return UpstreamVictim(type="upstream", url=url, model=served, **about)
    if name.endswith(".onnx"):
        return OnnxVictim(type="onnx", weights=Path(name), task=task, **about)
    if name.endswith(".safetensors"):
        if not opening.architecture:
            raise ConfigError(f"'{name}' holds weights alone; name their --architecture")
        about |= {"architecture": opening.architecture, "settings": dict(opening.settings)}
        return TorchVictim(type="torch", weights=Path(name), engine="torch", **about)
    raise ConfigError(
        f"suspect '{name}' is no .safetensors or .onnx file, no address like http://HOST:PORT/v2/models/NAME, and no"
        " folder of pictures, .npz or .npy (of a generator)"
    )


def _shapes(like: Victim) -> dict[str, Any]:
    return {"input_shape": like.input.shape, "output_shape": like.output_shape}


def _drawn(model: VictimPlugin, count: int, seed: int) -> Tensor:
    latents = torch.randn(
        count, *model.input.shape, generator=torch.Generator().manual_seed(seed)
    ).clamp(model.input.low, model.input.high)
    return torch.cat([model.predict(part).values for part in torch.split(latents, ROWS)])


def first(batches: Sequence[Tensor], count: int) -> Iterator[Tensor]:
    """The first ``count`` pictures of batches."""
    for batch in batches:
        if count > 0:
            yield batch[:count]
        count -= len(batch)
