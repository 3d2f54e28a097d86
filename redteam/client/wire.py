"""How rows and answers look in the V1 and V2 inference protocols, and what is no answer to learn from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor

from mantlet.data import numbers_in, numbers_of
from mantlet.errors import TargetError
from mantlet.finite import all_finite

JSON, BINARY = "application/json", "application/octet-stream"
NPY = "application/x-npy"
HEADER_LENGTH = "Inference-Header-Content-Length"
TAKEN = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
SENT = TAKEN | {"INT32": "<i4", "INT64": "<i8"}
EXPLANATION = "explanation"
"""The output of V2 that explains the answer beside it."""
SLACK = 1e-3
"""How far a probability may lie outside of [0, 1]: servers round."""


@dataclass(frozen=True, slots=True)
class Model:
    """What a target says of a model: its input, ``shape`` of one row, and ``classes`` where it answers scores.

    ``made`` is the shape of one picture where it answers pictures. Sides of pictures are -1 where they may be any.
    """

    input: str
    datatype: str
    shape: tuple[int, ...]
    output: str
    classes: int | None
    made: tuple[int, ...] = ()


def model(body: bytes, of: str) -> Model:
    """The model of V2 metadata; ``of`` names the target in errors."""
    about = _object(body, of)
    first, answer = (_first(about.get(part), part, of) for part in ("inputs", "outputs"))
    shape, scores = _axes(first.get("shape")), _axes(answer.get("shape"))
    fixed = shape[:-2] if len(shape) == 4 and shape[2:] == [-1, -1] else shape
    if len(shape) < 2 or min(fixed[1:]) < 1 or first.get("datatype") not in TAKEN:
        raise TargetError(
            f"{of} takes {first.get('datatype')} of shape {first.get('shape')}; an attack sends floats of"
            " a fixed shape"
        )
    classes = scores[-1] if len(scores) == 2 and scores[-1] > 1 else None
    name, output = str(first.get("name")), str(answer.get("name"))
    made = tuple(scores[1:]) if len(scores) == 4 else ()
    return Model(name, first["datatype"], tuple(shape[1:]), output, classes, made)


@dataclass(frozen=True, slots=True)
class Question:
    """Path under the target's address, body and headers of one request."""

    path: str
    body: bytes
    headers: Mapping[str, str]


def ask_v1(name: str, rows: np.ndarray) -> Question:
    """Rows (B, *shape) as ``{"instances": ...}``."""
    body = orjson.dumps({"instances": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Question(f"/v1/models/{name}:predict", body, {"Content-Type": JSON})


def ask_v2(
    name: str,
    of: Model,
    rows: np.ndarray,
    *,
    binary: bool,
    explained: bool = False,
    classes: Sequence[int] | None = None,
) -> Question:
    """Rows (B, *shape) as one tensor, in the binary extension or in JSON; explained, of classes or the top ones."""
    raw = np.ascontiguousarray(rows, TAKEN[of.datatype])
    tensor: dict[str, Any] = {"name": of.input, "datatype": of.datatype, "shape": raw.shape}
    outputs: list[dict[str, Any]] = [{"name": of.output}]
    outputs += [{"name": EXPLANATION}] if explained else []
    asked: dict[str, Any] = {"inputs": [tensor], "outputs": outputs}
    if classes is not None:
        asked["parameters"] = {"classes": list(classes)}
    headers, tail = {"Content-Type": JSON}, b""
    if binary:
        tail = raw.tobytes()
        tensor["parameters"] = {"binary_data_size": len(tail)}
        for output in outputs:
            output["parameters"] = {"binary_data": True}
    else:
        tensor["data"] = raw.ravel().astype(np.float64)
    head = orjson.dumps(asked, option=orjson.OPT_SERIALIZE_NUMPY)
    if binary:
        headers = {"Content-Type": BINARY, HEADER_LENGTH: str(len(head))}
    return Question(f"/v2/models/{name}/infer", head + tail, headers)


def answer_v1(body: bytes, of: str) -> np.ndarray:
    """The numbers of ``{"predictions": ...}``."""
    return _numbers(_object(body, of).get("predictions"), of)


def answer_v2(headers: Mapping[str, str], body: bytes, of: str) -> np.ndarray:
    """The first output tensor, as bytes or as JSON."""
    return answers_v2(headers, body, of, 1)[0]


def answers_v2(
    headers: Mapping[str, str], body: bytes, of: str, count: int
) -> Sequence[np.ndarray]:
    """The first output tensors, each as bytes or as JSON; bytes follow one another."""
    length = headers.get(HEADER_LENGTH)
    if length is not None and not (length.isascii() and length.isdigit() and len(length) < 16):
        raise TargetError(f"{of} answers {HEADER_LENGTH} '{length[:20]}', which is no length")
    cut = len(body) if length is None else int(length)
    outputs, tail = _object(body[:cut], of).get("outputs"), body[cut:]
    found = []
    for place in range(count):
        tensor = _first(outputs[place:] if isinstance(outputs, list) else None, "outputs", of)
        if "data" in tensor:
            numbers = _numbers(tensor["data"], of)
        else:
            numbers = _raw(tensor, tail, of)
            tail = tail[numbers.nbytes :]
        shape = _axes(tensor.get("shape"))
        if any(axis < 0 for axis in shape) or math.prod(shape) != numbers.size:
            raise TargetError(f"{of} answers {numbers.size} numbers of shape {tensor.get('shape')}")
        found.append(numbers.reshape(shape))
    return found


def ask_generate(name: str, seed: int, rows: int) -> Question:
    """Pictures by number and seed, as one .npy."""
    body = orjson.dumps({"n": rows, "seed": seed})
    return Question(f"/v1/models/{name}:generate", body, {"Content-Type": JSON, "Accept": NPY})


def answer_npy(body: bytes, of: str) -> np.ndarray:
    """The array of a .npy."""
    try:
        return numbers_of(body)
    except ValueError as error:
        raise TargetError(f"{of} answers no .npy file") from error


def checked_maps(values: np.ndarray, rows: np.ndarray, of: str) -> Tensor:
    """(B, *shape) float32 maps of rows; `TargetError` for another shape and what is not finite."""
    if values.shape != rows.shape or not all_finite(values):
        raise TargetError(
            f"{of} explains rows {rows.shape} by {values.shape}; wanted as many finite numbers"
        )
    return torch.from_numpy(values.astype(np.float32))


def checked(values: np.ndarray, rows: int, of: str) -> Tensor:
    """What is there to learn from in the answer to ``rows`` rows; `TargetError` where nothing is.

    (B, C) float32 probabilities, (B,) int64 labels, or (B, C, H, W) float32 pictures in [0, 1].
    """
    if values.dtype.kind in "iu" and values.shape in ((rows,), (rows, 1)):
        return torch.from_numpy(values.reshape(rows).astype(np.int64))
    pictures = values.ndim == 4
    fits = values.size and values.ndim in (2, 4) and len(values) == rows
    if not fits or values.shape[1] < 2 - pictures:
        raise TargetError(
            f"{of} answers shape {values.shape} to {rows} rows; wanted ({rows}, classes), ({rows},), or"
            f" pictures ({rows}, channels, height, width)"
        )
    if not (all_finite(values) and values.min() >= -SLACK and values.max() <= 1 + SLACK):
        no = "no pictures in [0, 1]" if pictures else "no probabilities: logits?"
        raise TargetError(f"{of} answers numbers that are {no}")
    return torch.from_numpy(values.astype(np.float32).clip(0, 1))


def _object(body: bytes, of: str) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise TargetError(f"{of} answers no JSON: {error}") from error
    if not isinstance(found, dict):
        raise TargetError(f"{of} answers JSON that is no object")
    return found


def _first(values: object, part: str, of: str) -> dict[str, Any]:
    if not (isinstance(values, list) and values and isinstance(values[0], dict)):
        raise TargetError(f"{of} answers no '{part}': is it a server of this protocol?")
    first: dict[str, Any] = values[0]
    return first


def _axes(shape: object) -> Sequence[int]:
    whole = isinstance(shape, list) and all(type(axis) is int for axis in shape)
    return shape if whole else ()  # type: ignore[return-value]  # just looked at


def _numbers(values: object, of: str) -> np.ndarray:
    try:
        numbers_in(values)
    except ValueError as error:
        raise TargetError(f"{of} answers no array of numbers") from error
    return np.array(values)


def _raw(tensor: Mapping[str, Any], tail: bytes, of: str) -> np.ndarray:
    datatype, parameters = tensor.get("datatype"), tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    dtype = np.dtype(SENT[datatype]) if isinstance(datatype, str) and datatype in SENT else None
    if (
        dtype is None
        or type(size) is not int
        or not 0 <= size <= len(tail)
        or size % dtype.itemsize
    ):
        raise TargetError(
            f"{of} answers {len(tail)} bytes as {datatype!r:.20}, and says {size!r:.20}"
        )
    return np.frombuffer(tail[:size], dtype)
