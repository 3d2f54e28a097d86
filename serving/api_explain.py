"""The V1 protocol's way to ask why: ``POST /v1/models/{model}:explain``."""

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import orjson
import torch

from mantlet.types import InputSpec, Kind, Released
from serving import decoding, encoding
from serving.decoding import bad
from serving.exchange import JSON, Receive, Scope, Send, reply
from serving.overlay import overlay
from serving.service import Service


class Explain:
    """``:explain``: what ``:predict`` takes, with ``method`` and ``class`` in the JSON or behind a ``?``.

    ``explanations`` and ``predictions`` out, a .npy of the maps, or a picture for people.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client, gateway, headers, body = await self._service.let_in(
            scope, receive, lambda of: of.explaining
        )
        explaining = gateway.explaining
        accept = headers.get("accept", "")
        _check_accept(accept, gateway.input)
        most = explaining.settings.max_rows_per_request
        rows, asked = _decode(headers, body, gateway.input, most)
        query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
        why = explaining.read(len(rows), query | asked)
        answer, maps = await gateway.explain(client, rows, why)
        told, kind = await asyncio.to_thread(_encode, rows, answer, maps, accept)
        await reply(send, told, content_type=kind)


def _check_accept(accept: str, spec: InputSpec) -> None:
    """400 for a picture of rows that are none, before anything is paid for."""
    if encoding.PNG in accept and not (len(spec.shape) == 3 and spec.shape[0] in (1, 3)):
        raise bad(
            f"rows of shape {list(spec.shape)} cannot be shown; accept JSON or {encoding.NPY}"
        )


def _decode(
    headers: Mapping[str, str], body: bytes, spec: InputSpec, most: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Rows of a V1 body, and what its JSON says beside them."""
    if decoding.media_type(headers, decoding.TAKEN) not in decoding.JSON_TYPES:
        return decoding.rows_of(headers, body, spec, most), {}
    request = decoding.parse_json(body)
    return decoding.rows_from_lists(decoding.instances_of(request), spec, most), request


def _encode(rows: np.ndarray, answer: Released, maps: Released, accept: str) -> tuple[bytes, str]:
    """Body and media type."""
    if encoding.PNG in accept:
        shown = overlay(torch.from_numpy(rows), maps.values, _captions(answer))
        return encoding.png(shown), encoding.PNG
    if encoding.NPY in accept:
        return encoding.npy(maps.values.numpy()), encoding.NPY
    told = {"explanations": maps.values.numpy(), "predictions": answer.values.numpy()}
    return orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY), JSON


def _captions(answer: Released) -> list[str]:
    """What was answered to each row."""
    if answer.kind is Kind.LABELS:
        return [f"class {label}" for label in answer.values.tolist()]
    shares, classes = answer.values.max(dim=1)
    pairs = zip(classes.tolist(), shares.tolist(), strict=True)
    return [f"class {label}: {share:.1%}" for label, share in pairs]
