"""The Open Inference Protocol, V2: JSON and the binary tensor extension."""

import asyncio
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import orjson

from mantlet import __version__
from mantlet.errors import RequestError
from mantlet.types import InputSpec, Kind, Released, Task
from serving import decoding, encoding
from serving.decoding import bad
from serving.exchange import JSON, Receive, Scope, Send, headers_of, reply, reply_json, reply_ready
from serving.explaining import Why
from serving.gateway import Gateway
from serving.service import Service

BINARY = "application/octet-stream"
HEADER_LENGTH = "inference-header-content-length"
LENGTH = re.compile("[0-9]{1,12}")
DTYPES = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
DATATYPES = {
    Kind.PROBABILITIES: "FP32",
    Kind.LABELS: "INT64",
    Kind.IMAGES: "FP32",
    Kind.ATTRIBUTIONS: "FP32",
}
EXPLANATION = "explanation"
"""The output that is answered, beside the other, to those who ask for it."""
T = TypeVar("T")
# ids and names beyond this are no ids and names
MAX_TEXT = 1024


@dataclass(frozen=True, slots=True)
class Ask:
    """A decoded request: its rows, its id, whether the answer goes as binary, and what is to be explained."""

    rows: np.ndarray
    id: str | None
    binary: bool
    why: Why | None = None


class Infer:
    """``POST /v2/models/{model}[/versions/{version}]/infer``."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client, gateway, headers, body = await self._service.let_in(scope, receive)
        if gateway.task is Task.GENERATE:
            gateway.require_latents(client)
        ask = await _aside(gateway, lambda: _decode(headers, body, gateway))
        if ask.why is None:
            tensors = [await gateway.answer(client, ask.rows)]
        else:
            tensors = [*await gateway.explain(client, ask.rows, ask.why)]
        answer, more = await _aside(gateway, lambda: _encoded(gateway, ask, tensors))
        await reply(send, answer, content_type=BINARY if ask.binary else JSON, headers=more)


async def _aside(gateway: Gateway, work: Callable[[], T]) -> T:
    """In a thread where it may take long, that of large pictures: others must not wait for it."""
    return await asyncio.to_thread(work) if gateway.input.is_open else work()


def _decode(headers: Mapping[str, str], body: bytes, gateway: Gateway) -> Ask:
    head, tail = _cut(headers, body)
    request = decoding.parse_json(head)
    identity = request.get("id")
    if identity is not None and not (isinstance(identity, str) and len(identity) <= MAX_TEXT):
        raise bad(f"'id' must be a string of at most {MAX_TEXT} characters")
    inputs = request.get("inputs")
    if not (isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict)):
        raise bad("'inputs' must be a list with the model's one input tensor")
    spec = gateway.input
    rows = _rows(inputs[0], tail, spec, gateway.queue.max_rows_per_request)
    names = _wanted(request, gateway)
    why = None
    if EXPLANATION in names:
        why = gateway.explaining.read(len(rows), _parameters(request))
    return Ask(rows, identity, _wants_binary(request), why)


def _cut(headers: Mapping[str, str], body: bytes) -> tuple[bytes, bytes]:
    """JSON head and binary tail of a body."""
    length = headers.get(HEADER_LENGTH)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if length is None:
        if kind not in (*decoding.JSON_TYPES, BINARY):
            raise RequestError(
                415, f"Content-Type '{kind[:80]}' is not taken; send {JSON}", reason="media_type"
            )
        return body, b""
    if not LENGTH.fullmatch(length) or int(length) > len(body):
        raise bad(
            f"Inference-Header-Content-Length is '{length[:20]}', but the body has {len(body)} bytes"
        )
    return body[: int(length)], body[int(length) :]


def _rows(tensor: Mapping[str, Any], tail: bytes, spec: InputSpec, max_rows: int) -> np.ndarray:
    if tensor.get("name") != spec.name:
        raise bad(
            f"the input is named {_short(tensor.get('name'))}; this model takes '{spec.name}'"
        )
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise bad(f"datatype {_short(datatype)} is not taken; this model takes {spec.datatype}")
    shape = tensor.get("shape")
    if not (isinstance(shape, list) and shape and all(type(axis) is int for axis in shape)):
        raise bad("'shape' must be a list of whole numbers")
    if not spec.takes(tuple(shape[1:])):
        raise bad(f"the input has shape {_short(shape)}; wanted {decoding.batch_of(spec)}")
    decoding.check_rows(shape[0], max_rows)
    decoding.check_pixels(tuple(shape[1:]), spec)
    size = _parameters(tensor).get("binary_data_size")
    if size is not None:
        array = _from_binary(tail, size, shape, datatype)
    else:
        if tail:
            raise bad(f"{len(tail)} bytes follow the JSON, and no input claims them")
        array = _from_json(tensor.get("data"), shape)
    return decoding.checked(array, spec)


def _from_binary(tail: bytes, size: object, shape: list[int], datatype: str) -> np.ndarray:
    wanted = math.prod(shape) * np.dtype(DTYPES[datatype]).itemsize
    if size != wanted or len(tail) != wanted:
        raise bad(
            f"binary_data_size is {_short(size)} and {len(tail)} bytes follow the JSON;"
            f" {datatype} {shape} takes {wanted}"
        )
    return np.frombuffer(tail, DTYPES[datatype]).reshape(shape)


def _from_json(data: object, shape: list[int]) -> np.ndarray:
    if not isinstance(data, list):
        raise bad("'data' must be a list of numbers, flat or nested")
    nested = bool(data) and isinstance(data[0], list)
    wanted = shape[0] if nested else math.prod(shape)
    if len(data) != wanted:
        raise bad(f"'data' has {len(data)} elements; shape {shape} takes {wanted}")
    inner = tuple(shape[1:]) if nested else ()
    return decoding.numbers_from_lists(data, inner, "'data'").reshape(shape)


def _wanted(request: Mapping[str, Any], gateway: Gateway) -> Sequence[str]:
    """The names of the requested outputs, checked."""
    wanted = request.get("outputs")
    if wanted is None or wanted == []:
        return ()
    if not (isinstance(wanted, list) and all(isinstance(output, dict) for output in wanted)):
        raise bad("'outputs' must be a list of tensors")
    known = [gateway.output_name, *([EXPLANATION] if gateway.pipeline.explaining else [])]
    for output in wanted:
        if output.get("name") not in known:
            has = " and ".join(f"'{name}'" for name in known)
            raise bad(f"output {_short(output.get('name'))} is unknown; this model has {has}")
    return [output["name"] for output in wanted]


def _wants_binary(request: Mapping[str, Any]) -> bool:
    """Whether the requested outputs should come as binary."""
    default = _parameters(request).get("binary_data_output") is True
    wanted = request.get("outputs")
    first = wanted[0] if wanted else {}
    return bool(_parameters(first).get("binary_data", default) is True)


def _parameters(part: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = part.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise bad("'parameters' must be an object")
    return parameters


def _encoded(
    gateway: Gateway, ask: Ask, tensors: Sequence[Released]
) -> tuple[bytes, Mapping[str, str]]:
    """Body and headers of an answer."""
    outputs, raw = list[dict[str, Any]](), b""
    for name, released in zip((gateway.output_name, EXPLANATION), tensors, strict=False):
        values = released.values.numpy()
        output: dict[str, Any] = {
            "name": name,
            "shape": values.shape,
            "datatype": DATATYPES[released.kind],
        }
        if ask.binary:
            raw += values.tobytes()
            output["parameters"] = {"binary_data_size": values.nbytes}
        else:
            encoding.check_json(values)
            output["data"] = values.ravel()
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": gateway.name, "model_version": gateway.version}
    answer |= ({"id": ask.id} if ask.id is not None else {}) | {"outputs": outputs}
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not ask.binary:
        return head, {}
    return head + raw, {"Inference-Header-Content-Length": str(len(head))}


class ServerMetadata:
    """``GET /v2``: name, version, extensions."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        about = {"name": "mantlet", "version": __version__, "extensions": ["binary_tensor_data"]}
        await reply_json(send, about)


class Live:
    """``GET /v2/health/live``: the process answers."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await reply_json(send, {"live": True})


class Ready:
    """``GET /v2/health/ready`` and ``/v2/models/{model}/ready``: 200 or 503."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path_params"]
        if "model" in path:
            self._service.known(path["model"], path.get("version"))
            ready = self._service.model_ready(path["model"])
            await reply_ready(send, {"name": path["model"], "ready": ready})
            return
        await reply_ready(send, {"ready": self._service.ready})


class ModelMetadata:
    """``GET /v2/models/{model}``: names, datatypes and shapes, and how the weights were trained to resist."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path_params"]
        self._service.identify(scope, headers_of(scope))
        gateway = self._service.gateway(path["model"], path.get("version"))
        spec, kind = gateway.input, gateway.answer_kind
        shape = [-1, *gateway.pipeline.victim.output_shape] if kind is not Kind.LABELS else [-1]
        about: dict[str, Any] = {
            "name": gateway.name,
            "versions": [gateway.version],
            "platform": "mantlet",
            "inputs": [{"name": spec.name, "datatype": spec.datatype, "shape": [-1, *spec.shape]}],
            "outputs": [{"name": gateway.output_name, "datatype": DATATYPES[kind], "shape": shape}],
        }
        if parameters := _told(gateway):
            about["parameters"] = parameters
        await reply_json(send, about)


def _told(gateway: Gateway) -> dict[str, str]:
    """What the metadata say beside names and shapes."""
    told = {"trained_with": gateway.pipeline.victim.trained_with}
    if gateway.task is not Task.CLASSIFY:
        told["task"] = str(gateway.task)
    if gateway.pipeline.input_defenses:
        told["latents"] = "remapped"  # a client must know that its own are not obeyed
    if gateway.pipeline.explaining:  # an output that comes only when it is asked for
        told[EXPLANATION] = ", ".join(gateway.pipeline.explaining.explainer.methods)
    return {name: value for name, value in told.items() if value}


def _short(value: object) -> str:
    """What a client sent, for its error message: however long or deep it is."""
    return reprlib.repr(value)
