"""Pictures as clients want them: PNG for eyes, zip for many, .npy and JSON for machines."""

import io
import zipfile

import numpy as np
import orjson
import torch
from PIL import Image

from mantlet.sheets import contact_sheet
from serving.exchange import JSON

NPY, PNG, ZIP = "application/x-npy", "image/png", "application/zip"


def pictures(values: np.ndarray, accept: str, about: dict[str, object]) -> tuple[bytes, str]:
    """Body and media type of (n, C, H, W) pictures in [0, 1].

    A PNG of several is a sheet of them. JSON says what ``about`` says, too.
    """
    if PNG in accept:
        return png(_sheet(values)), PNG
    if ZIP in accept:
        return _zipped(values), ZIP
    if NPY in accept:
        return npy(values), NPY
    answer = {"predictions": values, **about}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), JSON


def npy(values: np.ndarray) -> bytes:
    """A .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def png(picture: Image.Image) -> bytes:
    """A PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
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
