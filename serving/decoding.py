"""From the bytes of a client to rows of the victim's input, or one clear 400; nothing is allocated on a claim."""

import io
import math
import re
from collections.abc import Collection, Mapping
from itertools import chain
from typing import Any

import numpy as np
import orjson
from PIL import Image

from mantlet.errors import RequestError
from mantlet.types import InputSpec
from serving.encoding import JPEG, NPY, PNG
from serving.exchange import JSON

NO_ROWS = "there are no rows; send at least one"
NORMAL = "send rows drawn from a standard normal"
PICTURE_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
METADATA_BYTES = 256 * 1024
"""What a picture's file may have beside eight bytes a pixel."""
CHUNKS = 64
"""Chunks of a PNG beside its pixels."""
PACKED = dict.fromkeys((b"iCCP", b"zTXt", b"iTXt"), 12)
"""Chunks that are unpacked, to a million bytes of a thousand: each counts as so many."""
SCANS = 100
"""Scans of a JPEG: each takes as long as the whole picture, in eleven bytes. Progressive ones have a dozen."""
NPY_MAGIC = b"\x93NUMPY"
NPY_HEADER_BYTES = 4096
NPY_FIELDS = (
    re.compile(r"""['"]descr['"]\s*:\s*['"]([^'"]{2,8})['"]"""),
    re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)\b"""),
    re.compile(r"""['"]shape['"]\s*:\s*\(([0-9, ]{0,80})\)"""),
)

# curl sends -d bodies as a form, and every V1 example posts JSON that way
JSON_TYPES = ("", JSON, "application/x-www-form-urlencoded")
PICTURES = {PNG: ("PNG",), JPEG: ("JPEG",)}
TAKEN = (*JSON_TYPES, NPY, *PICTURES)
"""Media types of the rows of V1."""
NPY_TAKEN = re.compile(r"[<>=|]?(f[248]|u1)")


def bad(message: str) -> RequestError:
    """A 400: the client's bytes do not mean what they should."""
    return RequestError(400, message)


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object; NaN and Infinity are no JSON."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        hint = "; NaN and Infinity are no JSON" if b"NaN" in body or b"Infinity" in body else ""
        raise bad(f"the body is no JSON: {error}{hint}") from None
    if not isinstance(value, dict):
        raise bad(f"the body is a JSON {_json_name(value)}; an object is wanted")
    return value


def media_type(headers: Mapping[str, str], taken: Collection[str]) -> str:
    """The Content-Type of a body, one of those ``taken``; 415 for others."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in taken:
        return kind
    wanted = ", ".join(sorted({*taken} - {"", JSON_TYPES[-1]}))
    raise RequestError(
        415, f"Content-Type '{kind[:80]}' is not taken; send {wanted}", reason="media_type"
    )


def rows_of(headers: Mapping[str, str], body: bytes, spec: InputSpec, max_rows: int) -> np.ndarray:
    """(n, *shape) float32 of a V1 body: JSON ``{"instances": rows}``, a .npy array or a picture."""
    kind = media_type(headers, TAKEN)
    if kind == NPY:
        return rows_from_npy(body, spec, max_rows)
    if kind in PICTURES:
        return rows_from_picture(body, spec, PICTURES[kind])
    return rows_from_lists(instances_of(parse_json(body)), spec, max_rows)


def instances_of(request: Mapping[str, Any]) -> object:
    """The rows of a V1 request."""
    if "instances" not in request:
        raise bad('the body lacks "instances": send {"instances": [row, ...]}')
    return request["instances"]


def check_rows(rows: int, max_rows: int) -> None:
    """400 for no rows, 413 for more than one request may have."""
    if rows < 1:
        raise bad(NO_ROWS)
    if rows > max_rows:
        raise RequestError(
            413, f"{rows} rows in one request; at most {max_rows} are taken", reason="too_many_rows"
        )


def rows_from_lists(
    values: object, spec: InputSpec, max_rows: int, what: str = "'instances'"
) -> np.ndarray:
    """(n, *shape) float32 of nested lists.

    Takes each row in the victim's shape, flat, or, of grey pictures, without the axis of one channel.
    """
    if not isinstance(values, list):
        raise bad(f"{what} is a JSON {_json_name(values)}; a list of rows is wanted")
    if not values:
        raise bad(NO_ROWS)
    shape = _shape_of_first(values[0])
    whole = _whole_shape(shape, spec)
    if whole is None:
        wanted = " or ".join(str(list(s)) for s in _accepted_shapes(spec))
        raise bad(f"the first row has shape {list(shape)}; wanted {wanted}")
    check_rows(len(values), max_rows)
    check_pixels(whole, spec)
    numbers = numbers_from_lists(values, shape, what)
    return checked(numbers.reshape(len(values), *whole), spec)


def numbers_from_lists(items: list[Any], shape: tuple[int, ...], what: str) -> np.ndarray:
    """Flat float64 of lists of lists, each item of which must have ``shape``; 400 for anything else.

    Lists are measured level by level before they are joined, and numpy never guesses a type: neither
    lists of a wrong depth nor texts among the numbers cost more than a look at them.
    """
    for length in shape:
        if set(map(type, items)) != {list} or set(map(len, items)) != {length}:
            raise bad(f"{what} is ragged: not all of it has shape {list(shape)}")
        items = list(chain.from_iterable(items))
    for odd in set(map(type, items)) - {int, float}:
        raise bad(f"{what} holds a JSON {_json_name(odd())} where a number is wanted")
    return np.array(items, dtype=np.float64)


def _accepted_shapes(spec: InputSpec) -> list[tuple[int, ...]]:
    shapes = [spec.shape]
    if len(spec.shape) > 1:
        shapes += [spec.shape[1:]] if spec.shape[0] == 1 else []
        shapes += [] if spec.is_open else [(spec.size,)]
    return shapes


def _whole_shape(shape: tuple[int, ...], spec: InputSpec) -> tuple[int, ...] | None:
    """The shape of a row that came as ``shape``: itself, with the axis of one channel, or unflattened."""
    if spec.takes(shape):
        return shape
    if spec.shape[0] == 1 and len(spec.shape) > 1 and spec.takes((1, *shape)):
        return (1, *shape)
    return spec.shape if shape == (spec.size,) and not spec.is_open else None


def check_pixels(shape: tuple[int, ...], spec: InputSpec) -> None:
    """413 for a picture of more pixels than are taken."""
    if spec.max_pixels is not None and math.prod(shape[1:]) > spec.max_pixels:
        raise RequestError(
            413,
            f"a picture of {shape[-1]}x{shape[-2]} has {math.prod(shape[1:])} pixels; at most"
            f" {spec.max_pixels} are taken: send it in parts",
            reason="too_many_pixels",
        )


def _shape_of_first(row: object) -> tuple[int, ...]:
    shape: list[int] = []
    while isinstance(row, list) and len(shape) < 8:
        shape.append(len(row))
        row = row[0] if row else None
    return tuple(shape)


def rows_from_npy(body: bytes, spec: InputSpec, max_rows: int) -> np.ndarray:
    """(n, *shape) float32 of a .npy body: floats as they are, uint8 divided by 255.

    The header is read without evaluating it, and checked against the body's length before an array is
    made; pickles are refused.
    """
    header, data = _cut_npy(body)
    descr, order, axes = (_npy_field(header, field) for field in NPY_FIELDS)
    if not NPY_TAKEN.fullmatch(descr):
        raise bad(f"the array holds {descr}; send float32 or uint8, without pickled objects")
    dtype = np.dtype(descr)
    shape = tuple(map(int, re.findall("[0-9]+", axes)))
    # of several rows of one axis, or of one row without the axis of its channel, the former
    several = _whole_shape(shape[1:], spec) if len(shape) > 1 else None
    if several is None and _whole_shape(shape, spec) is not None:
        several, shape = _whole_shape(shape, spec), (1, *shape)
    if several is None:
        raise bad(f"the array has shape {list(shape)}; wanted {batch_of(spec)}")
    check_rows(shape[0], max_rows)
    check_pixels(several, spec)
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise bad(f"the header says {list(shape)} {dtype}, but {len(data)} bytes follow")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if order == "True" else "C")
    scaled = array / np.float32(255) if dtype == np.uint8 else array
    return checked(scaled.reshape(shape[0], *several), spec)


def _cut_npy(body: bytes) -> tuple[str, memoryview]:
    """Header and data of a .npy file."""
    if not body.startswith(NPY_MAGIC):
        raise bad("the body is no .npy file: it does not begin as one")
    version = tuple(body[6:8])
    if version not in ((1, 0), (2, 0)):
        raise bad(f"the body is a .npy file of version {version}; send version 1 or 2")
    start = 10 if version == (1, 0) else 12
    stop = start + int.from_bytes(body[8:start], "little")
    if not stop - start <= NPY_HEADER_BYTES:
        raise bad(f"the .npy header has {stop - start} bytes; at most {NPY_HEADER_BYTES} are read")
    return body[start:stop].decode("latin-1"), memoryview(body)[stop:]


def _npy_field(header: str, field: re.Pattern[str]) -> str:
    found = field.search(header)
    if found is None:
        raise bad("the .npy header lacks 'descr', 'fortran_order' or 'shape' of a plain array")
    return found[1]


def rows_from_picture(body: bytes, spec: InputSpec, formats: tuple[str, ...]) -> np.ndarray:
    """(1, C, H, W) float32 in [0, 1] of a PNG or JPEG of the victim's size, or of any size where it is open."""
    if len(spec.shape) != 3 or spec.shape[0] not in (1, 3):
        raise bad(f"this model takes rows of shape {list(spec.shape)}, which a picture cannot hold")
    _check_effort(body, spec)
    channels = spec.shape[0]
    try:
        with Image.open(io.BytesIO(body), formats=formats) as picture:
            _check_header(picture, spec)  # before pixels are decoded
            # of 16 bits in colour Pillow keeps eight in silence
            if picture.format == "PNG" and body[24] == 16:
                raise bad("the picture has 16 bits a channel; send 8 bit grey or RGB")
            pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"), np.float32)
    except RequestError:
        raise
    except Image.DecompressionBombError:
        raise bad(f"the picture has far too many pixels; this model takes {_sides(spec)}") from None
    except Exception as error:  # Pillow raises a dozen kinds for hostile bytes; all mean the same
        kind = type(error).__name__
        raise bad(f"the body is no whole {' or '.join(formats)} picture ({kind})") from None
    planes = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return checked(planes[None] / 255.0, spec)


def _check_effort(body: bytes, spec: InputSpec) -> None:
    """Refuse what would take long to read, before Pillow reads any of it."""
    pixels = math.prod(spec.shape[1:]) if spec.max_pixels is None else spec.max_pixels
    most = METADATA_BYTES + 8 * pixels
    if len(body) > most:
        raise RequestError(
            413,
            f"the picture has {len(body)} bytes; at most {most} are taken: leave its metadata out",
            reason="body_too_large",
        )
    if body.startswith(PNG_MAGIC) and _chunks(body) > CHUNKS:
        raise bad(f"the PNG has over {CHUNKS} chunks beside its pixels; leave its metadata out")
    if not body.startswith(PNG_MAGIC) and body.count(b"\xff\xda") > SCANS:
        raise bad(f"the JPEG has over {SCANS} scans; save it as a baseline JPEG")


def _chunks(body: bytes) -> int:
    """How many chunks a PNG has beside its pixels, counted until there are too many."""
    start, count, kind = len(PNG_MAGIC), 0, b""
    while start < len(body) and count <= CHUNKS and kind != b"IEND":
        kind = body[start + 4 : start + 8]
        count += PACKED.get(kind, kind != b"IDAT")
        start += 12 + int.from_bytes(body[start : start + 4], "big")
    return count


def _check_header(picture: Image.Image, spec: InputSpec) -> None:
    width, height = picture.size
    if not spec.takes((spec.shape[0], height, width)):
        raise bad(f"the picture is {width}x{height} pixels; this model takes {_sides(spec)}")
    check_pixels((spec.shape[0], height, width), spec)
    if picture.mode not in PICTURE_MODES:
        raise bad(f"the picture has mode {picture.mode}; send 8 bit grey or RGB")
    if getattr(picture, "is_animated", False):
        raise bad("the picture is animated; send one picture")
    if spec.is_open and picture.has_transparency_data:
        raise bad("the picture has transparent parts; put it on a background, and send grey or RGB")


def _sides(spec: InputSpec) -> str:
    """What sizes are taken, for people."""
    if spec.is_open:
        return f"any size up to {spec.max_pixels} pixels"
    return f"{spec.shape[2]}x{spec.shape[1]}"


def checked(array: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Contiguous float32 of its own that is finite and within the victim's range."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf and is refused below
        rows = np.array(array, dtype=np.float32, order="C")
    low, high = float(rows.min()), float(rows.max())  # NaN and inf show in the extremes
    if not (math.isfinite(low) and math.isfinite(high)):
        raise bad("the values are not all finite; NaN and Infinity are not taken")
    if (spec.low is not None and low < spec.low) or (spec.high is not None and high > spec.high):
        remedy = "divide pixels by 255?" if spec.max_norm is None else NORMAL
        raise bad(
            f"the values reach from {low:.4g} to {high:.4g}; this model takes"
            f" {spec.low} to {spec.high} ({remedy})"
        )
    if spec.max_norm is not None:
        longest = float(np.sqrt(np.square(rows.reshape(len(rows), -1)).sum(axis=1)).max())
        if longest > spec.max_norm:
            raise bad(
                f"a row has norm {longest:.4g}; this model takes up to {spec.max_norm:.4g}: {NORMAL}"
            )
    return rows


def batch_of(spec: InputSpec) -> str:
    """The shape of n rows, for people.

    >>> batch_of(InputSpec((1, 28, 28)))
    '[n, 1, 28, 28]'
    """
    return f"[{', '.join(['n', *map(str, spec.shape)])}]"


def _json_name(value: object) -> str:
    names = {list: "list", str: "string", dict: "object", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
