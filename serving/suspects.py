"""Pictures of a suspect generator: from a folder or an array, drawn by a model file, or asked of a server."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from pydantic import ValidationError
from torch import Tensor

from mantlet.data import numbers_of
from mantlet.errors import ConfigError, VictimError
from mantlet.plugin import Setup
from mantlet.types import Task, Victim
from serving.encoding import NPY
from serving.exchange import JSON
from serving.ownership import ADDRESS
from serving.victims.base import VictimPlugin
from serving.victims.onnx import OnnxVictim
from serving.victims.torch import TorchVictim
from serving.victims.upstream import UpstreamVictim
from serving.watermarking import TAKEN, opened

LARGEST = 1 << 14
"""Numbers of a latent: a server that says more would fill our memory."""
ROWS = 32
"""Latents, or pictures of a seed, that a model is asked at once."""
VERB = re.compile(r"(https?://.+)/v1/models/([^/:]+):generate/?")
SLACK = 1e-3
"""How far outside [0, 1] pictures of a server may lie."""


@dataclass(frozen=True, slots=True)
class Opening:
    """How a suspect is opened: a weight file's ``architecture`` and its ``settings``, the ``headers`` that go to
    a server, and the ``output_range`` of numbers that stand for black and white; of an array the ``split`` and
    ``rows``.
    """

    architecture: str = ""
    settings: Mapping[str, int | float | str | bool] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    output_range: tuple[float, float] | None = None
    split: str = "train"
    rows: slice = field(default_factory=lambda: slice(None))


PLAIN = Opening()


def pictures_of(
    name: str,
    count: int,
    *,
    like: Victim | None = None,
    opening: Opening = PLAIN,
    seed: int = 0,
) -> Iterator[Tensor]:
    """At most ``count`` pictures of a suspect, in batches (n, C, H, W) in [0, 1] as they come.

    ``name`` is a folder of pictures, a .zip, .npz or .npy, a picture (as `opened` takes them), a .safetensors or
    .onnx generator, or the address of a served one; a model draws for the normal latents of ``seed``, and where the
    address ends with ``:generate`` for seeds that follow from it. ``like`` says what a server without metadata takes.
    Raises `ConfigError` for what holds and makes no pictures.
    """
    path = Path(name)
    if (name and path.is_dir()) or path.suffix.lower() in TAKEN:
        batches = opened([path], split=opening.split, rows=opening.rows)
        yield from first((batch.images for batch in batches), count)
        return
    verb = VERB.fullmatch(name)
    if verb:
        yield from _generated(verb[1], verb[2], count, opening, seed)
        return
    untold = {} if like is None else _shapes(like)
    with closing(open_model(name, opening, untold=untold)) as model:
        model.load(Setup(torch.device("cpu"), b""))
        if model.task is not Task.GENERATE:
            raise ConfigError(f"suspect '{name}' is there to {model.task}, and not to generate")
        try:
            yield from _drawn(model, count, seed)
        except VictimError as error:
            if not isinstance(model, UpstreamVictim) or model.protocol == "v2":
                raise
            raise ConfigError(
                f"suspect '{name}' was asked by :predict, as V1 has it: {error}; if it draws by number and seed,"
                f" give {model.url}/v1/models/{model.model}:generate, and if it speaks V2,"
                f" {model.url}/v2/models/{model.model}"
            ) from error


def open_model(
    name: str,
    opening: Opening,
    *,
    task: Task = Task.GENERATE,
    untold: Mapping[str, Any] = {},
    scale: int = 1,
    luma: bool = False,
) -> VictimPlugin:
    """A model by its file or address, not loaded; ``untold`` are settings of a server without metadata.

    Raises `ConfigError` for what is no such thing, and for settings that do not fit it.
    """
    about = {"name": "suspect", "output_range": opening.output_range, "luma": luma, "task": task}
    try:
        return _model(name, opening, about, {"scale": scale, **untold})
    except ValidationError as error:
        what = error.errors()[0]
        where = ".".join([f"suspect '{name}'", *map(str, what["loc"])])
        raise ConfigError(f"{where}: {what['msg']}") from None


def _model(
    name: str, opening: Opening, about: dict[str, Any], untold: Mapping[str, Any]
) -> VictimPlugin:
    address = ADDRESS.fullmatch(name)
    if address:
        url, protocol, served = address.groups()
        known = untold if protocol == "v1" else {"scale": untold["scale"]}
        about |= {"protocol": protocol, "headers": opening.headers, **known}
        return UpstreamVictim(type="upstream", url=url, model=served, **about)
    if name.endswith(".onnx"):
        return OnnxVictim(type="onnx", weights=Path(name), **about)
    if name.endswith(".safetensors"):
        if not opening.architecture:
            raise ConfigError(f"'{name}' holds weights alone; name their --architecture")
        about |= {"architecture": opening.architecture, "settings": dict(opening.settings)}
        about |= {"task": "auto"}
        return TorchVictim(type="torch", weights=Path(name), engine="torch", **about)
    raise ConfigError(
        f"suspect '{name}' is no .safetensors or .onnx file, no address like http://HOST:PORT/v2/models/NAME, and no"
        " folder of pictures, .zip, .npz or .npy (of a generator)"
    )


def _shapes(like: Victim) -> dict[str, Any]:
    return {"input_shape": like.input.shape, "output_shape": like.output_shape}


class _Verb(UpstreamVictim):
    """A server whose ``:generate`` is asked by number and seed, as `serving.api_images` answers it."""

    def load(self, setup: Setup) -> None:
        self._start()

    def draw(self, rows: int, seed: int) -> Tensor:
        """(rows, C, H, W) pictures in [0, 1] of a seed."""
        url = f"{self.url}/v1/models/{self.model}:generate"
        body = orjson.dumps({"n": rows, "seed": seed})
        headers = {"Content-Type": JSON, "Accept": NPY}
        _, answer = self._call(self._send("POST", url, body, headers))
        try:
            found = numbers_of(answer)
        except ValueError as error:
            raise ConfigError(f"suspect '{url}' answers no .npy, which it was asked for") from error
        if found.dtype == np.uint8:
            found = found / 255
        if found.ndim != 4 or len(found) != rows or found.shape[1] not in (1, 3):
            raise ConfigError(
                f"suspect '{url}' answers {found.shape} to {rows}; wanted ({rows}, 1 or 3, H, W)"
            )
        if found.dtype.kind != "f" or not (found.min() >= -SLACK and found.max() <= 1 + SLACK):
            raise ConfigError(f"suspect '{url}' answers numbers that are no pictures in [0, 1]")
        return torch.from_numpy(found.astype(np.float32)).clamp(0, 1)


def _generated(url: str, served: str, count: int, opening: Opening, seed: int) -> Iterator[Tensor]:
    about = {"name": "suspect", "protocol": "v1", "headers": opening.headers}
    generator = torch.Generator().manual_seed(seed)
    try:
        asked = _Verb.model_validate({"type": "upstream", "url": url, "model": served, **about})
    except ValidationError as error:
        raise ConfigError(f"suspect '{url}': {error.errors()[0]['msg']}") from None
    with closing(asked):
        asked.load(Setup(torch.device("cpu"), b""))
        for first_ in range(0, count, ROWS):
            drawn = int(torch.randint(2**31, (), generator=generator))
            yield asked.draw(min(ROWS, count - first_), drawn)


def _drawn(model: VictimPlugin, count: int, seed: int) -> Iterator[Tensor]:
    if model.input.size > LARGEST:
        raise ConfigError(
            f"a suspect of latents of {model.input.size} numbers; at most {LARGEST} are drawn"
        )
    latents = torch.randn(
        count, *model.input.shape, generator=torch.Generator().manual_seed(seed)
    ).clamp(model.input.low, model.input.high)
    for part in torch.split(latents, ROWS):
        yield model.predict(part).values


def first(batches: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    """The first ``count`` pictures of batches; no batch beyond them is opened."""
    for batch in batches:
        yield batch[:count]
        count -= len(batch)
        if count <= 0:
            return
