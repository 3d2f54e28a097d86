"""Pictures as clients want them: PNG for eyes, zip for many, .npy and JSON for machines."""

import io
import zipfile

import numpy as np
import orjson
import torch
from PIL import Image

from mantlet.errors import RequestError
from mantlet.sheets import contact_sheet
from serving.exchange import JSON

NPY, PNG, JPEG, ZIP = "application/x-npy", "image/png", "image/jpeg", "application/zip"
MOST_NUMBERS = 1 << 22
"""Numbers of the largest answer that is written as JSON, in which each takes ten bytes and more."""


def kind_for(accept: str, default: str) -> str:
    """The media type of an answer: the first of those accepted that we write, or the ``default``."""
    for wanted in accept.split(","):
        kind = wanted.partition(";")[0].strip().lower()
        if kind in (PNG, JPEG, ZIP, NPY, JSON):
            return kind
        if kind == "image/*":
            return PNG
    return default


def pictures(values: np.ndarray, kind: str, about: dict[str, object]) -> bytes:
    """(n, C, H, W) pictures in [0, 1] as ``kind``; JSON says what ``about`` says, too.

    A PNG or JPEG of several is a sheet of them. Raises `RequestError` 413 for JSON of too many numbers.
    """
    if kind in (PNG, JPEG):
        return _saved(_sheet(values), "PNG" if kind == PNG else "JPEG")
    if kind == ZIP:
        return _zipped(values)
    if kind == NPY:
        return npy(values)
    check_json(values)
    answer = {"predictions": np.ascontiguousarray(values), **about}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def check_json(values: np.ndarray) -> None:
    """413 for more numbers than are written as JSON."""
    if values.size > MOST_NUMBERS:
        raise RequestError(
            413,
            f"the answer has {values.size} numbers; as JSON at most {MOST_NUMBERS} are sent: accept"
            f" {PNG} or {NPY}, or ask for a binary tensor",
            reason="answer_too_large",
        )


def npy(values: np.ndarray) -> bytes:
    """A .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def png(picture: Image.Image) -> bytes:
    """A PNG file."""
    return _saved(picture, "PNG")


def _saved(picture: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, quality=95)  # a PNG has none
    return buffer.getvalue()


def _sheet(values: np.ndarray) -> Image.Image:
    return contact_sheet(torch.from_numpy(values))


def _zipped(values: np.ndarray) -> bytes:
    """A zip of PNG files 0000.png, 0001.png, ..."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as folder:
        for number, value in enumerate(values):
            folder.writestr(f"{number:04d}.png", png(_sheet(value[None])))
    return buffer.getvalue()
