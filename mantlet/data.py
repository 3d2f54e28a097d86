"""Pictures and labels from .npz and .npy files, without pickle."""

import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mantlet.errors import ConfigError
from mantlet.finite import all_finite


@dataclass(frozen=True, slots=True)
class Images:
    """``x`` (n, C, H, W) float32 in [0, 1]; ``y`` (n,) int64, or ``None`` where there are no labels.

    ``first`` is the number that the first row has in its file.
    """

    x: np.ndarray
    y: np.ndarray | None
    first: int = 0


def load_images(path: Path, split: str = "train", rows: slice = slice(None)) -> Images:
    """Rows of a split of ``path``.

    A .npz has ``x_SPLIT`` and ``y_SPLIT``, or ``x`` and ``y``, or of pairs of pictures ``a_SPLIT``; a .npy is all inputs. Grey pictures may
    lack the channel axis, and uint8 is divided by 255. Raises `ConfigError` for anything else.
    """
    if not path.is_file():
        raise ConfigError(f"data '{path}': no such file; give a .npz or .npy file")
    try:
        with path.open("rb") as file:
            return _read(np.load(file, allow_pickle=False), split, rows, path)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(
            f"data '{path}' is no .npz or .npy file without pickles: {error}"
        ) from error


def numbers_of(body: bytes) -> np.ndarray:
    """The array of a .npy of version 1 that somebody sent, made once it is known that all its numbers are there.

    Raises `ValueError` for anything else, and for an array of no numbers.
    """
    stream = io.BytesIO(body)
    try:
        np.lib.format.read_magic(stream)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except Exception as error:  # half a dozen kinds for hostile headers, and all mean the same
        raise ValueError("it does not begin as a .npy of version 1") from error
    data = body[stream.tell() :]
    if dtype.kind not in "fiu" or not data or len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"its header says {shape} {dtype}, and {len(data)} bytes follow")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def numbers_in(values: object) -> np.ndarray:
    """The numbers of lists in lists that somebody sent, as objects; raises `ValueError` for anything else.

    Of a type that NumPy guesses, each would be as large as the longest text among them.
    """
    items = np.array(values, object)
    if not items.ndim or not {*map(type, items.flat)} <= {int, float}:
        raise ValueError("these are no lists of numbers")
    return items


def _read(loaded: np.ndarray | np.lib.npyio.NpzFile, split: str, rows: slice, path: Path) -> Images:
    if isinstance(loaded, np.ndarray):
        return Images(_as_images(loaded, rows, path), None, rows.indices(len(loaded))[0])
    x = _first(loaded, (f"x_{split}", "x", f"a_{split}"), path)
    if f"y_{split}" not in loaded and "y" not in loaded:
        return Images(_as_images(x, rows, path), None, rows.indices(len(x))[0])
    y = _first(loaded, (f"y_{split}", "y"), path).astype(np.int64)
    if y.ndim != 1:
        raise ConfigError(f"data '{path}': labels have shape {y.shape}; wanted (n,)")
    if len(y) != len(x):
        raise ConfigError(f"data '{path}': {len(x)} pictures and {len(y)} labels; they must match")
    return Images(_as_images(x, rows, path), y[rows], rows.indices(len(x))[0])


def parse_rows(text: str) -> slice:
    """``"100:200"``, ``"55000:"`` or ``":500"`` as a slice.

    >>> parse_rows("55000:")
    slice(55000, None, None)
    """
    start, colon, stop = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return slice(int(start) if start else None, int(stop) if stop else None)
    except ValueError:
        raise ConfigError(f"rows '{text}': write START:STOP, either may be left out") from None


def _first(arrays: np.lib.npyio.NpzFile, names: Sequence[str], path: Path) -> np.ndarray:
    for name in names:
        if name in arrays:
            array: np.ndarray | bytes = arrays[name]
            if isinstance(array, bytes):  # numpy hands out what is no .npy as it is
                raise ConfigError(f"data '{path}': '{name}' is no array")
            return array
    raise ConfigError(
        f"data '{path}' has {', '.join(arrays.files)}; wanted one of {', '.join(names)}"
    )


def _as_images(x: np.ndarray, rows: slice, path: Path) -> np.ndarray:
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise ConfigError(f"data '{path}' holds {x.dtype}; wanted uint8, or floats in [0, 1]")
    if x.ndim not in (3, 4) or not x.size:
        raise ConfigError(f"data '{path}' has shape {x.shape}; wanted (n, H, W) or (n, C, H, W)")
    if not len(x[rows]):
        raise ConfigError(f"data '{path}' has {len(x)} rows, and none of those that are asked for")
    images = x[rows, None] if x.ndim == 3 else x[rows]
    scaled = images.astype(np.float32) / (255.0 if x.dtype == np.uint8 else 1.0)
    if not (all_finite(scaled) and scaled.min() >= 0 and scaled.max() <= 1):
        raise ConfigError(f"data '{path}': floats must be in [0, 1]; divide by 255?")
    return np.ascontiguousarray(scaled)
