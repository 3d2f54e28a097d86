"""The V1 protocol, and pictures for people: ``POST /v1/models/{model}:predict``."""

import io

import numpy as np
import orjson

from mantlet.errors import RequestError
from mantlet.types import InputSpec, Released
from serving import decoding
from serving.exchange import JSON, Receive, Scope, Send, headers_of, reply, reply_json, reply_ready
from serving.service import Service

NPY = "application/x-npy"
# curl sends -d bodies as a form, and every V1 example posts JSON that way
JSON_TYPES = frozenset({"", JSON, "application/x-www-form-urlencoded"})
PICTURES = {"image/png": ("PNG",), "image/jpeg": ("JPEG",)}


class Predict:
    """``:predict``: JSON ``{"instances": rows}``, a .npy array or a picture in, ``predictions`` out."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        client = self._service.identify(scope, headers)
        gateway = self._service.gateway(scope["path_params"]["model"])
        await gateway.admit(client)
        body = await self._service.read_body(receive, headers)
        spec = gateway.input
        rows = _decode(headers, body, spec, gateway.queue.max_rows_per_request)
        released = await gateway.answer(client, rows)
        await _encode(send, released, headers.get("accept", ""))


def _decode(headers: dict[str, str], body: bytes, spec: InputSpec, max_rows: int) -> np.ndarray:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in JSON_TYPES:
        request = decoding.parse_json(body)
        if "instances" not in request:
            raise decoding.bad('the body lacks "instances": send {"instances": [row, ...]}')
        return decoding.rows_from_lists(request["instances"], spec, max_rows)
    if kind == NPY:
        return decoding.rows_from_npy(body, spec, max_rows)
    if kind in PICTURES:
        return decoding.rows_from_picture(body, spec, PICTURES[kind])
    taken = ", ".join([JSON, NPY, *PICTURES])
    raise RequestError(
        415, f"Content-Type '{kind[:80]}' is not taken; send {taken}", reason="media_type"
    )


async def _encode(send: Send, released: Released, accept: str) -> None:
    values = released.values.numpy()
    if NPY in accept:
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        await reply(send, buffer.getvalue(), content_type=NPY)
        return
    body = orjson.dumps({"predictions": values}, option=orjson.OPT_SERIALIZE_NUMPY)
    await reply(send, body)


class ListModels:
    """``GET /v1/models``: the names of the models served."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await reply_json(send, {"models": sorted(self._service.gateways)})


class ModelStatus:
    """``GET /v1/models/{model}``: name and readiness, 200 or 503, as V1 clients ask."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path_params"]["model"]
        if name.endswith(":predict"):
            raise RequestError(405, "this path takes POST", headers={"Allow": "POST"})
        self._service.known(name)
        await reply_ready(send, {"name": name, "ready": self._service.model_ready(name)})


class Alive:
    """``GET /``: how V1 clients ask whether the process answers."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await reply_json(send, {"status": "alive"})
