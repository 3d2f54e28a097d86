"""The owner's question over HTTP, whether pictures carry a model's mark: seldom asked, and answered in four words."""

import io
import threading
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from defenses.watermark.carriers import MarkKey
from defenses.watermark.defense import Watermark
from defenses.watermark.detection import detect
from mantlet.errors import RequestError
from mantlet.types import OPEN, InputSpec, Kind
from serving import decoding
from serving.decoding import bad
from serving.gateway import Gateway
from serving.generator_ownership import graded
from serving.service import Service

TIMES, WITHIN_S = 20, 3600.0
"""So often in so long: who could ask without end would learn to wash a mark away."""
PICTURES, PIXELS, LARGEST = 5_000, 1 << 24, 1 << 22
"""Pictures in a request, pixels in all of them, pixels of one."""
FEWEST = 16
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


class Desk:
    """Answers ``none``, ``weak``, ``strong`` or ``overwhelming`` evidence, `TIMES` within `WITHIN_S`, in each process.

    What is refused is no question: a body that cannot be read, a model that is not there, too few pictures.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._asked: deque[float] = deque()
        self._counting = threading.Lock()

    def enter(self) -> None:
        """403 where the admin port has no token, 429 where all questions are spent."""
        if self._service.settings.admin.token is None:
            raise RequestError(403, "only the owner may ask; set admin.token")
        with self._counting:
            self._room()

    def _charge(self) -> None:
        """A question is spent where pictures are read for it; 429 for one too many, of several at once too."""
        with self._counting:
            self._asked.append(self._room())

    def _room(self) -> float:
        """The time, where one more question may be asked."""
        now = self._service.clock()
        while self._asked and self._asked[0] <= now - WITHIN_S:
            self._asked.popleft()
        if len(self._asked) >= TIMES:
            wait_s = int(self._asked[0] + WITHIN_S - now) + 1
            raise RequestError(
                429,
                f"{TIMES} questions an hour are answered; wait {wait_s} s",
                headers={"Retry-After": str(wait_s)},
            )
        return now

    def key(self, model: str) -> tuple[Gateway, MarkKey]:
        """What marks a model's pictures; 404 for a model that is not served, 400 for one that marks nothing."""
        gateway = self._service.gateway(model)
        if not any(isinstance(d, Watermark) for d in gateway.pipeline.defenses):
            raise bad(f"model '{model}' marks no pictures: it has no defense 'watermark'")
        return gateway, MarkKey(gateway.pipeline.secret, gateway.name)

    def answer(self, model: str, body: bytes) -> dict[str, object]:
        """What pictures in a zip of PNG or JPEG, a .npz or a .npy say of a model's mark, and how many they are."""
        gateway, key = self.key(model)
        batches = list(pictures(body, _spec(gateway)))
        count = sum(map(len, batches))
        if count < FEWEST:
            raise bad(f"{count} pictures are too few; send {FEWEST} or more")
        self._charge()
        return {"evidence": graded(detect(batches, key).p), "pictures": count}


def _spec(gateway: Gateway) -> InputSpec:
    """What a picture of the model may be: of its channels, of any size."""
    if gateway.pipeline.victim.kind is not Kind.IMAGES:
        raise bad(f"model '{gateway.name}' makes no pictures")
    channels = gateway.pipeline.victim.output_shape[0]
    return InputSpec((channels, OPEN, OPEN), 0.0, 1.0, max_pixels=LARGEST)


def pictures(body: bytes, spec: InputSpec) -> Iterator[Tensor]:
    """(n, C, H, W) batches of a .npy, or of what a zip or .npz holds: .npy arrays, and PNG and JPEG files.

    What is packed is bounded by what its header says, before it is unpacked, and no more is read than that.
    """
    if not body.startswith(b"PK"):
        yield torch.from_numpy(decoding.rows_from_npy(body, spec, PICTURES))
        return
    sizes: dict[tuple[int, ...], list[Tensor]] = {}
    for rows in _unpacked(body, spec):
        sizes.setdefault(tuple(rows.shape[1:]), []).append(rows)
    for batches in sizes.values():
        yield torch.cat(batches)


def _unpacked(body: bytes, spec: InputSpec) -> Iterator[Tensor]:
    count = pixels = 0
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as folder:
            entries = [entry for entry in folder.infolist() if not entry.is_dir()]
            if len(entries) > PICTURES or sum(e.file_size for e in entries) > 4 * PIXELS:
                raise RequestError(
                    413, f"the zip unpacks to too much; at most {PICTURES} pictures are taken"
                )
            for entry in entries:
                rows = _rows(entry.filename, folder.read(entry), spec, PICTURES - count)
                count, pixels = count + len(rows), pixels + rows.numel()
                if pixels > PIXELS:
                    raise RequestError(413, f"the pictures have over {PIXELS} pixels together")
                yield rows
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError) as error:
        raise bad(f"the body is no whole zip or .npz ({type(error).__name__})") from None


def _rows(name: str, body: bytes, spec: InputSpec, most: int) -> Tensor:
    suffix = f".{name.rpartition('.')[2].lower()}"
    if suffix == ".npy":
        return torch.from_numpy(decoding.rows_from_npy(body, spec, most))
    if suffix not in SUFFIXES:
        raise bad(f"'{name[:80]}' is neither .png, .jpg nor .npy")
    if most < 1:
        raise RequestError(413, f"at most {PICTURES} pictures are taken")
    return torch.from_numpy(decoding.rows_from_picture(body, spec, (SUFFIXES[suffix],)))
