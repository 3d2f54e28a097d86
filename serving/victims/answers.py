"""What an upstream answers, read with distrust: metadata and tensors, or a clear `VictimError`."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import orjson
from pydantic import BaseModel, BeforeValidator, ValidationError

from mantlet.data import numbers_in
from mantlet.errors import VictimError

DTYPES = {"FP32": "<f4", "FP64": "<f8", "FP16": "<f2"}


class TensorMetadata(BaseModel):
    """One input or output of a served model; an open axis is -1."""

    name: str
    datatype: str = "FP32"
    shape: tuple[int, ...] = ()


Tensors = Annotated[tuple[TensorMetadata, ...], BeforeValidator(lambda value: value or ())]


class ModelMetadata(BaseModel):
    """What ``GET /v2/models/{model}`` answers; servers leave out, or null, what they do not know."""

    name: str | None = None
    platform: str | None = None
    versions: list[str] | None = None
    inputs: Tensors = ()
    outputs: Tensors = ()


def model_metadata(body: bytes, url: str) -> ModelMetadata:
    """The V2 metadata of a model."""
    try:
        return ModelMetadata.model_validate(json_object(body, url))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise VictimError(
            f"upstream '{url}' answered no metadata: {field}: {first['msg']}"
        ) from error


def json_object(body: bytes, url: str) -> dict[str, Any]:
    """A JSON object; NaN and Infinity are no JSON."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise VictimError(f"upstream '{url}' answered no JSON: {error}") from error
    if not isinstance(answer, dict):
        raise VictimError(f"upstream '{url}' answered JSON that is no object")
    return answer


def v1_scores(body: bytes, url: str) -> np.ndarray:
    """The ``predictions`` of a V1 answer, float32."""
    return _numbers(json_object(body, url).get("predictions"), url)


def v1_explanations(body: bytes, url: str) -> np.ndarray:
    """The ``explanations`` of a V1 answer, float32."""
    return _numbers(json_object(body, url).get("explanations"), url)


def v2_scores(headers: Mapping[str, str], body: bytes, output: str, url: str) -> np.ndarray:
    """The tensor ``output`` of a V2 answer, or the first one where no name is given, float32."""
    head, tail = _cut(headers.get("Inference-Header-Content-Length"), body, url)
    for tensor in _list(json_object(head, url).get("outputs")):
        if not isinstance(tensor, dict):
            break
        size = _binary_size(tensor)
        raw, tail = (tail[:size], tail[size:]) if size is not None else (None, tail)
        if output and tensor.get("name") != output:
            continue
        numbers = (
            _numbers(tensor.get("data"), url)
            if raw is None
            else _floats(raw, size, tensor.get("datatype"), url)
        )
        return _shaped(numbers, tensor.get("shape"), url)
    raise VictimError(f"upstream '{url}' answered without output '{output}'")


def _cut(length: str | None, body: bytes, url: str) -> tuple[bytes, bytes]:
    """JSON head and binary tail of a body."""
    if length is None:
        return body, b""
    if not _is_count(length) or int(length) > len(body):
        raise VictimError(
            f"upstream '{url}' lies about its header: {length[:20]} of {len(body)} bytes"
        )
    return body[: int(length)], body[int(length) :]


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _binary_size(tensor: Mapping[str, Any]) -> int | None:
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    return size if type(size) is int and size >= 0 else None


def _floats(raw: bytes, size: int | None, datatype: object, url: str) -> np.ndarray:
    dtype = DTYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None or len(raw) % np.dtype(dtype).itemsize or len(raw) != size:
        raise VictimError(
            f"upstream '{url}' answered {len(raw)} bytes of {datatype!r:.40}, and says {size}"
        )
    return _float32(np.frombuffer(raw, dtype))


def _numbers(values: object, url: str) -> np.ndarray:
    try:
        items = numbers_in(values)
    except ValueError as error:
        raise VictimError(f"upstream '{url}' answered no tensor of numbers") from error
    return _float32(items)


def _float32(array: np.ndarray) -> np.ndarray:
    """A copy that may be written to; what is too large becomes infinite, and is refused later."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _shaped(array: np.ndarray, shape: object, url: str) -> np.ndarray:
    axes = _list(shape)
    whole = all(type(axis) is int and axis >= 0 for axis in axes)
    if not axes or not whole or math.prod(axes) != array.size:
        raise VictimError(f"upstream '{url}' answered {array.size} numbers of shape {shape!r:.80}")
    return array.reshape(axes)
