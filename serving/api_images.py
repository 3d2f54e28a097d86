"""The V1 protocol of models that make pictures: ``:generate`` from latents, ``:translate`` from pictures."""

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from mantlet.types import Released, Task
from serving import decoding, encoding
from serving.admission import Client
from serving.decoding import bad
from serving.exchange import JSON, Receive, Scope, Send, reply
from serving.gateway import Gateway
from serving.latents import LARGEST_SEED
from serving.service import Service

SEED = "X-Mantlet-Seed"
"""The header that says which seed the pictures came of."""
WANTED = frozenset({"n", "seed", "latents"})


class Generate:
    """``:generate``: ``{"n":, "seed":}``, or ``{"latents": rows}`` or a .npy of them; pictures out.

    Without a seed one is drawn, and the answer names it: asked again, it gives the same pictures.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client, gateway, headers, body = await self._service.let_in(
            scope, receive, lambda of: of.require(Task.GENERATE)
        )
        rows, seed = _latents(headers, body, gateway, client)
        released = await gateway.answer(client, rows)
        about: dict[str, object] = {} if seed is None else {"seed": seed}
        named = {} if seed is None else {SEED: str(seed)}
        kind = encoding.kind_for(headers.get("accept", ""), JSON)
        await _encode(send, released, kind, about, named)


def _latents(
    headers: Mapping[str, str], body: bytes, gateway: Gateway, client: Client
) -> tuple[np.ndarray, int | None]:
    """(n, D) latents, and the seed that they were drawn from; none where the client sent its own."""
    kind = decoding.media_type(headers, (*decoding.JSON_TYPES, encoding.NPY))
    most = gateway.queue.max_rows_per_request
    if kind == encoding.NPY:
        gateway.require_latents(client)
        return decoding.rows_from_npy(body, gateway.input, most), None
    request = decoding.parse_json(body) if body.strip() else {}
    unknown = sorted(request.keys() - WANTED)
    if unknown:
        raise bad(f"'{unknown[0][:80]}' is not taken; send n and seed, or latents")
    if "latents" in request:
        if len(request) > 1:
            raise bad("latents need neither n nor seed; send one or the other")
        gateway.require_latents(client)
        rows = decoding.rows_from_lists(request["latents"], gateway.input, most, "'latents'")
        return rows, None
    count = _whole(request, "n", 1, 1, None)
    decoding.check_rows(count, most)
    seed = _whole(request, "seed", secrets.randbits(53), 0, LARGEST_SEED)
    return gateway.latents(client, seed, count), seed


def _whole(request: Mapping[str, Any], name: str, default: int, low: int, high: int | None) -> int:
    """A whole number of the request; a boolean is none."""
    value = request.get(name, default)
    if type(value) is not int or value < low or (high is not None and value > high):
        wanted = f"from {low}" + (f" to {high}" if high is not None else "")
        # beyond 64 bits JSON is parsed as a floating number: what was sent is not known to the digit
        huge = type(value) is float and value.is_integer() and abs(value) >= 2**63
        said = f"too {'large' if value > 0 else 'small'}" if huge else f"{value!r:.40}"
        raise bad(f"'{name}' is {said}; wanted a whole number {wanted}")
    return value


class Translate:
    """``:translate``: a PNG, JPEG, .npy or JSON rows in, pictures of the same kind out.

    A PNG is answered with a PNG, a JPEG with a JPEG and so on, where nothing else is asked for.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client, gateway, headers, body = await self._service.let_in(
            scope, receive, lambda of: of.require(Task.TRANSLATE)
        )
        most = gateway.queue.max_rows_per_request
        # a large picture takes a while to unpack, and others must not wait for it
        rows = await asyncio.to_thread(decoding.rows_of, headers, body, gateway.input, most)
        released = await gateway.answer(client, rows)
        asked = decoding.media_type(headers, decoding.TAKEN)
        own = asked if asked in (encoding.NPY, *decoding.PICTURES) else JSON
        await _encode(send, released, encoding.kind_for(headers.get("accept", ""), own), {}, {})


async def _encode(
    send: Send,
    released: Released,
    kind: str,
    about: dict[str, object],
    headers: Mapping[str, str],
) -> None:
    values = released.values.numpy()
    body = await asyncio.to_thread(encoding.pictures, values, kind, about)
    await reply(send, body, content_type=kind, headers=headers)
