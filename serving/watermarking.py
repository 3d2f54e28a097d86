"""What the commands of watermarks open: keys, and pictures from files, folders and arrays."""

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from defenses.watermark import detection, learned, tracing
from defenses.watermark.carriers import MarkKey
from defenses.watermark.defense import Watermark
from defenses.watermark.detection import Found
from defenses.watermark.learned_defense import LearnedWatermark
from defenses.watermark.tracing import Suspect
from mantlet.data import load_images
from mantlet.errors import ConfigError
from mantlet.plugin import Setup
from mantlet.types import Kind, Prediction, Query
from serving.admission import client_id
from serving.decoding import PICTURE_MODES
from serving.keys import HASHED, KeyFile
from serving.ownership import secret_of_gateway
from serving.settings import Settings, chosen_model

PICTURES = (".png", ".jpg", ".jpeg")
ARRAYS = (".npz", ".npy")
ZIP = ".zip"
TAKEN = (*PICTURES, *ARRAYS, ZIP)
"""What files of pictures end with."""
SMALLEST = 16
"""Sides of a picture that can say anything, in pixels."""
LARGEST = 1 << 24
"""Pixels of one picture that are decoded."""
MOST = 20_000
"""Pictures in which a mark is looked for at once; of each a few thousand bytes are kept."""
SHORTEST = 16
"""Characters of a key."""
BATCH = 64
DEPTH = 24
"""Where a PNG says how many bits a channel has; of colour Pillow keeps eight in silence."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who looks for marks: the ``secret``, the ``model``, its ``defense``, and who may have been answered.

    ``settings`` are those of the gateway, if it is known: then clients are named as it names them.
    """

    secret: bytes
    model: str
    defense: Watermark | LearnedWatermark
    settings: Settings | None = None

    @property
    def key(self) -> MarkKey:
        """The key of the mark."""
        return MarkKey(self.secret, self.model)

    def known_as(self, name: str) -> str:
        """How the mark names a client: its keyed hash where there is a gateway, which may be given itself."""
        if self.settings is None or HASHED.fullmatch(name):
            return name
        return client_id(self.secret, name)

    def clients(self) -> list[str]:
        """Names of all clients who ever had a key of the gateway."""
        if self.settings is None:
            return []
        path = self.settings.data_dir / self.settings.identity.keys
        return list(dict.fromkeys(key.client for key in KeyFile(path).all()))

    def embed(self, images: Tensor, client: str) -> Tensor:
        """(n, C, H, W) pictures as the gateway would answer them to a client."""
        self.defense.load(Setup(torch.device("cpu"), self.secret, model=self.model))
        query = Query([self.known_as(client)] * len(images), torch.zeros(len(images), 1), 0.0)
        return self.defense(Prediction(images, Kind.IMAGES), query, {}).values

    def detect(
        self,
        images: Iterable[Tensor],
        *,
        whole: tuple[int, int] | None = None,
        scales: Sequence[float] = (),
    ) -> Found:
        """Look for the mark in batches of pictures, as `detection.detect` or `learned.detect` does.

        Batches are taken as they come, and none is kept. Raises `ConfigError` for more than `MOST` pictures,
        and for what would be too large at a scale.
        """
        images = _bounded(images, min([1.0, *scales]))
        if isinstance(self.defense, Watermark):
            return detection.detect(images, self.key, whole=whole, scales=scales)
        if scales:
            raise ConfigError("a learned mark is looked for at one scale; leave --scale out")
        return learned.detect(self.defense.networks(), images, self.key, whole=whole)

    def trace(self, found: Found, clients: Sequence[str]) -> list[Suspect]:
        """Clients, as the mark names them, by how well their marks fit what was found."""
        if isinstance(self.defense, Watermark):
            return tracing.trace(found, self.key, clients)
        return learned.trace(found, self.key, clients)


def _bounded(batches: Iterable[Tensor], scale: float) -> Iterator[Tensor]:
    count = 0
    for batch in batches:
        count += len(batch)
        height, width = (round(side / scale) for side in batch.shape[-2:])
        if count > MOST:
            raise ConfigError(
                f"there are over {MOST} pictures; give fewer, or of an array --rows START:STOP"
            )
        if height * width > LARGEST:
            raise ConfigError(
                f"at scale {scale:g} a picture had {width}x{height} pixels; at most {LARGEST} are looked at"
            )
        yield batch


def owner_of_gateway(settings: Settings, model: str) -> Owner:
    """The owner of a model of a config, the only one where none is named."""
    name, chosen = chosen_model(settings, model)
    marks = [d for d in chosen.defenses if isinstance(d, Watermark | LearnedWatermark)]
    secret = secret_of_gateway(settings)
    return Owner(secret, name, marks[0] if marks else Watermark(), settings)


def owner_of_key(path: Path, model: str) -> Owner:
    """The owner of the key in a file, for pictures that no gateway answered."""
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"key '{path}' cannot be read: {error.strerror}") from error
    if len(secret) < SHORTEST:
        raise ConfigError(
            f"key '{path}' has {len(secret)} characters, wanted {SHORTEST} or more; make one by:"
            " openssl rand -hex 32"
        )
    return Owner(secret, model, Watermark())


@dataclass(frozen=True, slots=True)
class Batch:
    """Some pictures of one size (n, C, H, W) in [0, 1], and what each is called."""

    images: Tensor
    names: Sequence[str]


def opened(
    sources: Sequence[Path], *, split: str = "train", rows: slice = slice(None)
) -> Iterator[Batch]:
    """All pictures of files, folders (not those inside them), arrays and zips, as they come.

    Grey pictures have one channel and all others three. Raises `ConfigError`, which names the file, for
    what is no 8-bit picture of 16 pixels a side or more; in a folder other files than pictures are passed over.
    """
    for source in sources:
        for path in _files(source):
            if path.suffix.lower() in ARRAYS:
                yield from _of_array(path, split, rows)
            elif path.suffix.lower() == ZIP:
                yield from _of_zip(path)
            else:
                image = read_picture(path)
                yield Batch(image, [path.as_posix()])


def _files(source: Path) -> list[Path]:
    if not source.exists():
        raise ConfigError(f"pictures '{source}': no such file or folder")
    if not source.is_dir():
        return [source]
    found = [p for p in sorted(source.iterdir()) if p.suffix.lower() in TAKEN]
    if not found:
        raise ConfigError(f"folder '{source}' holds no {', '.join(TAKEN)} file")
    return found


def _of_array(path: Path, split: str, rows: slice) -> Iterator[Batch]:
    loaded = load_images(path, split, rows)
    images = torch.from_numpy(loaded.x)
    channels, height, width = images.shape[1:]
    if channels not in (1, 3):
        raise ConfigError(
            f"pictures '{path}' have {channels} channels; wanted 1 or 3, (n, C, H, W)"
        )
    _check_size(path, width, height)
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        numbers = range(loaded.first + start, loaded.first + start + len(part))
        yield Batch(part, [f"{path.as_posix()}[{number}]" for number in numbers])


def _of_zip(path: Path) -> Iterator[Batch]:
    """Of the pictures in a zip, such as ``:generate`` answers; each is unpacked by itself."""
    try:
        with zipfile.ZipFile(path) as folder:
            entries = [e for e in folder.infolist() if e.filename.lower().endswith(PICTURES)]
            if not entries:
                raise ConfigError(f"zip '{path}' holds no {', '.join(PICTURES)} file")
            for entry in entries:
                name = path / entry.filename
                if entry.file_size > 4 * LARGEST:
                    raise ConfigError(f"picture '{name}' unpacks to over {4 * LARGEST} bytes")
                yield Batch(read_picture(name, io.BytesIO(folder.read(entry))), [name.as_posix()])
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ConfigError(f"'{path}' is no whole zip ({type(error).__name__})") from None


def read_picture(path: Path, file: BinaryIO | None = None) -> Tensor:
    """(1, C, H, W) of a PNG or JPEG, or of a ``file`` that ``path`` names."""
    try:
        with (
            path.open("rb") if file is None else file as stream,
            Image.open(stream, formats=("PNG", "JPEG")) as picture,
        ):
            _check_header(path, picture)  # before pixels are decoded
            stream.seek(DEPTH)
            if picture.format == "PNG" and stream.read(1) == b"\x10":
                raise ConfigError(
                    f"picture '{path}' has 16 bits a channel; save it with 8 bits, grey or RGB"
                )
            grey = picture.mode in ("1", "L", "LA")
            pixels = np.asarray(picture.convert("L" if grey else "RGB"), np.float32) / 255
    except ConfigError:
        raise
    except Image.DecompressionBombError:
        raise ConfigError(f"picture '{path}' has over {LARGEST} pixels") from None
    except Exception as error:  # Pillow raises a dozen kinds for odd bytes; all mean the same
        kind = type(error).__name__
        raise ConfigError(f"picture '{path}' is no whole PNG or JPEG ({kind})") from None
    planes = pixels[None] if grey else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes))[None]


def _check_header(path: Path, picture: Image.Image) -> None:
    if picture.width * picture.height > LARGEST:
        raise ConfigError(f"picture '{path}' has over {LARGEST} pixels")
    if getattr(picture, "is_animated", False):
        raise ConfigError(f"picture '{path}' is animated; save the frames, and give their folder")
    if picture.mode not in PICTURE_MODES:
        raise ConfigError(
            f"picture '{path}' has mode {picture.mode}; save it with 8 bits, grey or RGB"
        )
    _check_size(path, picture.width, picture.height)


def _check_size(path: Path, width: int, height: int) -> None:
    if min(width, height) < SMALLEST:
        raise ConfigError(
            f"pictures '{path}' are {width}x{height} pixels; a mark needs {SMALLEST} a side"
        )


def write_picture(image: Tensor, path: Path) -> None:
    """Save one (C, H, W) picture in [0, 1] as PNG, which loses nothing; raises `ConfigError` where none can be."""
    pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path)
    except OSError as error:
        raise ConfigError(
            f"picture '{path}' cannot be written: {error.strerror}; give a folder by --to"
        ) from error
