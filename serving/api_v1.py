"""The V1 protocol, and pictures for people: ``POST /v1/models/{model}:predict``."""

import orjson

from mantlet.errors import RequestError
from mantlet.types import Released, Task
from serving import decoding, encoding
from serving.exchange import Receive, Scope, Send, reply, reply_json, reply_ready
from serving.service import Service

VERBS = (":predict", ":generate", ":translate", ":explain")


class Predict:
    """``:predict``: JSON ``{"instances": rows}``, a .npy array or a picture in, ``predictions`` out."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client, gateway, headers, body = await self._service.let_in(
            scope, receive, lambda of: of.require(Task.CLASSIFY)
        )
        rows = decoding.rows_of(headers, body, gateway.input, gateway.queue.max_rows_per_request)
        released = await gateway.answer(client, rows)
        await _encode(send, released, headers.get("accept", ""))


async def _encode(send: Send, released: Released, accept: str) -> None:
    values = released.values.numpy()
    if encoding.NPY in accept:
        await reply(send, encoding.npy(values), content_type=encoding.NPY)
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
        if name.endswith(VERBS):
            raise RequestError(405, "this path takes POST", headers={"Allow": "POST"})
        self._service.known(name)
        await reply_ready(send, {"name": name, "ready": self._service.model_ready(name)})


class Alive:
    """``GET /``: how V1 clients ask whether the process answers."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await reply_json(send, {"status": "alive"})
