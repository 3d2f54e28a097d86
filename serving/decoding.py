"""From the bytes of a client to rows of the victim's input, or one clear 400; nothing is allocated on a claim."""

import io
import math
from typing import Any

import numpy as np
import orjson
from PIL import Image

from mantlet.errors import RequestError
from mantlet.types import InputSpec

PICTURE_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})
NPY_HEADER_BYTES = 4096


def bad(message: str) -> RequestError:
    """A 400: the client's bytes do not mean what they should."""
    return RequestError(400, message)


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object; NaN and Infinity are no JSON."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad(f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise bad(f"the body is a JSON {_json_name(value)}; an object is wanted")
    return value


def check_rows(rows: int, max_rows: int) -> None:
    """400 for no rows, 413 for more than one request may have."""
    if rows < 1:
        raise bad("there are no rows; send at least one")
    if rows > max_rows:
        raise RequestError(
            413, f"{rows} rows in one request; at most {max_rows} are taken", reason="too_many_rows"
        )


def rows_from_lists(values: object, spec: InputSpec, max_rows: int) -> np.ndarray:
    """(n, *shape) float32 of nested lists.

    Takes each row in the victim's shape, flat, or, of grey pictures, without the axis of one channel.
    The first row is measured before anything is built, so that lists of a wrong depth cost nothing.
    """
    if not isinstance(values, list):
        raise bad(f"'instances' is a JSON {_json_name(values)}; a list of rows is wanted")
    check_rows(len(values), max_rows)
    shape = _shape_of_first(values[0])
    if shape not in _accepted_shapes(spec):
        wanted = " or ".join(str(list(s)) for s in _accepted_shapes(spec))
        raise bad(f"the first row has shape {list(shape)}; wanted {wanted}")
    array = numbers_from_lists(values, "'instances'")
    if array.shape != (len(values), *shape):
        raise bad(f"'instances' is ragged: not all rows have shape {list(shape)}")
    return checked(array.reshape(len(values), *spec.shape), spec)


def numbers_from_lists(values: object, what: str) -> np.ndarray:
    """An array of nested lists of numbers; 400 when they are ragged or hold anything else."""
    try:
        array = np.array(values)
    except (ValueError, TypeError, OverflowError):
        raise bad(f"{what} is ragged, or holds something that is no number") from None
    if array.dtype.kind not in "fiu":
        raise bad(f"{what} holds something that is no number")
    return array


def _accepted_shapes(spec: InputSpec) -> list[tuple[int, ...]]:
    shapes = [spec.shape]
    if len(spec.shape) > 1:
        shapes += [spec.shape[1:]] if spec.shape[0] == 1 else []
        shapes += [(spec.size,)]
    return shapes


def _shape_of_first(row: object) -> tuple[int, ...]:
    shape: list[int] = []
    while isinstance(row, list) and len(shape) < 8:
        shape.append(len(row))
        row = row[0] if row else None
    return tuple(shape)


def rows_from_npy(body: bytes, spec: InputSpec, max_rows: int) -> np.ndarray:
    """(n, *shape) float32 of a .npy body: floats as they are, uint8 divided by 255.

    The header is checked against the body's length before an array is made; pickles are refused.
    """
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(stream, max_header_size=NPY_HEADER_BYTES)
    except (ValueError, KeyError, EOFError, TypeError, SyntaxError) as error:
        raise bad(f"the body is no .npy file of version 1 or 2: {str(error)[:100]}") from None
    if dtype.hasobject or dtype.kind not in "fu" or (dtype.kind == "u" and dtype != np.uint8):
        raise bad(f"the array holds {dtype}; send float32 or uint8, without pickled objects")
    shape = (1, *shape) if shape in _accepted_shapes(spec) else shape
    if not shape or shape[1:] not in _accepted_shapes(spec):
        raise bad(f"the array has shape {list(shape)}; wanted {['n', *spec.shape]}")
    check_rows(shape[0], max_rows)
    data = body[stream.tell() :]
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise bad(f"the header says {list(shape)} {dtype}, but {len(data)} bytes follow")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    scaled = array / np.float32(255) if dtype == np.uint8 else array
    return checked(scaled.reshape(shape[0], *spec.shape), spec)


def rows_from_picture(body: bytes, spec: InputSpec, formats: tuple[str, ...]) -> np.ndarray:
    """(1, C, H, W) float32 in [0, 1] of a PNG or JPEG of exactly the victim's size."""
    if len(spec.shape) != 3 or spec.shape[0] not in (1, 3):
        raise bad(f"this model takes rows of shape {list(spec.shape)}, which a picture cannot hold")
    channels, height, width = spec.shape
    try:
        with Image.open(io.BytesIO(body), formats=formats) as picture:
            if picture.size != (width, height):  # read from the header, before pixels are decoded
                found = f"{picture.size[0]}x{picture.size[1]}"
                raise bad(f"the picture is {found} pixels; this model takes {width}x{height}")
            if picture.mode not in PICTURE_MODES:
                raise bad(f"the picture has mode {picture.mode}; send 8 bit grey or RGB")
            pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"), np.float32)
    except RequestError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for hostile bytes; all mean the same
        kind = type(error).__name__
        raise bad(f"the body is no whole {' or '.join(formats)} picture ({kind})") from None
    planes = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return checked(planes[None] / 255.0, spec)


def checked(array: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Contiguous float32 that is finite and within the victim's range."""
    with np.errstate(
        over="ignore"
    ):  # what is too large for float32 becomes inf and is refused below
        rows = np.ascontiguousarray(array, dtype=np.float32)
    low, high = float(rows.min()), float(rows.max())  # NaN and inf show in the extremes
    if not (math.isfinite(low) and math.isfinite(high)):
        raise bad("the values are not all finite; NaN and Infinity are not taken")
    if (spec.low is not None and low < spec.low) or (spec.high is not None and high > spec.high):
        raise bad(
            f"the values reach from {low:.4g} to {high:.4g}; this model takes"
            f" {spec.low} to {spec.high} (divide pixels by 255?)"
        )
    return rows


def _json_name(value: object) -> str:
    names = {list: "list", str: "string", dict: "object", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
