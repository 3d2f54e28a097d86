"""An oracle over HTTP: a gateway, or any server of the V1 or V2 protocol, as one of its clients meets it."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Literal, NamedTuple, Self
from urllib.parse import quote, urlsplit

import aiohttp
import numpy as np
import orjson
import torch
from torch import Tensor

from mantlet.errors import ConfigError, TargetError
from mantlet.registry import did_you_mean
from redteam.client import wire
from redteam.client.oracle import Came, Cut, Explained, Refused, Withheld

RETRIES = 3
BACKOFF_S = 0.1
"""Waited after a first failure to connect; twice as long after each further one."""
LARGEST = 1 << 28
"""Bytes of an answer that are read."""
IDLE_S = 2.0
"""Connections are not used again after this long: a server may be about to close them."""


class Reply(NamedTuple):
    """One response, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Bad(TargetError):
    """The target takes the request for a mistake."""


class OverHttp:
    """One account at ``target`` (scheme, host, port) that asks ``model``. Close it, or use it in ``with``.

    ``protocol`` is ``v2`` (tensors as bytes), ``v2-json`` or ``v1``. ``batch`` rows go in one request and
    ``concurrency`` requests are under way at once. 429 and 503 are waited out as ``Retry-After`` says,
    ``patience_s`` a request at most; a connection that fails, closes or takes over ``timeout_s`` is tried
    `RETRIES` times more. ``rows`` counts what was sent again as well: the target may have charged it.

    403, and a 429 beyond the patience, raise `Refused`; a target that is down or answers what is none of
    probabilities, labels and pictures raises `TargetError`; a key or a model it does not know, `ConfigError`.
    After any of these no request is sent, and those under way are read to their end, for they are paid: what they
    bring is in `Refused.came`, and the other errors are then the ``why`` of a `Cut`, as an interrupt is.
    """

    def __init__(
        self,
        target: str,
        model: str,
        *,
        key: str | None = None,
        protocol: Literal["v2", "v2-json", "v1"] = "v2",
        batch: int = 32,
        concurrency: int = 1,
        patience_s: float = 60.0,
        timeout_s: float = 30.0,
    ) -> None:
        parts = urlsplit(target)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"target '{target}' is no address of a server; write http://HOST:PORT"
            )
        self._target, self._name = target.rstrip("/"), model
        self._protocol, self._batch = protocol, batch
        self._patience_s, self._timeout_s = patience_s, timeout_s
        self._headers = {"Accept-Encoding": "identity", "Accept": "*/*"}
        self._headers |= {"Authorization": f"Bearer {key}"} if key else {}
        self._model: wire.Model | None = None
        self._rows = self._floats = 0
        self._over = asyncio.Event()
        """Set once a query has failed: nothing more of it is sent."""
        self._runner = asyncio.Runner()
        self._concurrency = concurrency
        self._http: aiohttp.ClientSession | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the counts stay."""
        if self._http is not None:
            self._runner.run(self._http.close())
            self._http = None
        self._runner.close()

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def floats(self) -> int:
        return self._floats

    def describe(self) -> wire.Model:
        """What the target's V2 metadata say of the model; asked for once, and no row is sent."""
        if self._model is None:
            self._model = self._runner.run(self._describe())
        return self._model

    def query(self, inputs: Tensor) -> Tensor:
        """(B, C) probabilities, (B,) labels or (B, C, H, W) pictures of (B, *shape), whatever the batches."""
        if self._protocol != "v1":
            self.describe()
        parts = torch.split(inputs.detach().cpu().float(), self._batch)
        answers = self._runner.run(self._ask_all([part.numpy() for part in parts]))
        return torch.cat([answers[place] for place in range(len(parts))])

    def generate(self, seed: int, rows: int) -> Tensor:
        """(rows, C, H, W) pictures of a generator for a seed, in one request, whatever the protocol."""
        return self._runner.run(self._generate(seed, rows))

    async def _generate(self, seed: int, rows: int) -> Tensor:
        reply = await self._patiently(
            wire.ask_generate(quote(self._name, safe=""), seed, rows), rows
        )
        return self._counted(wire.answer_npy(reply.body, self._of), rows)

    def explain(self, inputs: Tensor, classes: Tensor | None = None) -> Explained:
        """Answers and maps of (B, *shape) rows in one V2 call, whatever the protocol of queries; no two at once.

        Raises `Withheld` for every refusal but that of the key or the model: 403 and 429 to an
        explanation say nothing of predictions, and 400 is a model that explains nothing.
        """
        self.describe()
        told = []
        for places in torch.split(torch.arange(len(inputs)), self._batch):
            rows = inputs[places].detach().cpu().float().numpy()
            named = None if classes is None else classes[places].tolist()
            told.append(self._runner.run(self._explain(rows, named)))
        answers, maps = zip(*told, strict=True)
        return Explained(torch.cat(answers), torch.cat(maps))

    async def _explain(self, rows: np.ndarray, classes: Sequence[int] | None) -> Explained:
        name, about = quote(self._name, safe=""), self.describe()
        question = wire.ask_v2(name, about, rows, binary=True, explained=True, classes=classes)
        try:
            reply = await self._patiently(question, len(rows))
        except (Refused, _Bad) as refusal:
            raise Withheld(str(refusal)) from refusal
        values, shown = wire.answers_v2(reply.headers, reply.body, self._of, 2)
        answers = wire.checked(values, len(rows), self._of)
        maps = wire.checked_maps(shown, rows, self._of)
        self._floats += answers.numel() + maps.numel()
        return Explained(answers, maps)

    async def _describe(self) -> wire.Model:
        asked = wire.Question(f"/v2/models/{quote(self._name, safe='')}", b"", {})
        return wire.model((await self._patiently(asked)).body, self._of)

    @property
    def _of(self) -> str:
        return f"target '{self._target}'"

    async def _ask_all(self, parts: list[np.ndarray]) -> dict[int, Tensor]:
        """The answers by the place of their part; the first failure is raised, and an interrupt at once."""
        answers: dict[int, Tensor] = {}
        failures: list[BaseException] = []
        waiting = iter(enumerate(parts))
        self._over.clear()

        async def work() -> None:
            for place, part in waiting:
                try:
                    answers[place] = await self._ask(part)
                except Exception as error:
                    failures.append(error)
                    self._over.set()
                if self._over.is_set():
                    return

        workers = [asyncio.ensure_future(work()) for _ in range(self._concurrency)]
        try:
            await asyncio.gather(*workers)
        except asyncio.CancelledError:
            if not answers:
                raise
            failures.insert(0, KeyboardInterrupt())
        finally:
            self._over.clear()
        if failures:
            raise self._with(failures[0], answers)
        return answers

    def _with(self, why: BaseException, answers: Mapping[int, Tensor]) -> BaseException:
        """A failure with what came nonetheless."""
        if not answers:
            return why
        order = sorted(answers)
        places = [torch.arange(len(answers[part])) + part * self._batch for part in order]
        came = Came(torch.cat(places), torch.cat([answers[part] for part in order]))
        return Refused(str(why), came) if isinstance(why, Refused) else Cut(why, came)

    async def _ask(self, rows: np.ndarray) -> Tensor:
        name = quote(self._name, safe="")
        if self._protocol == "v1" or self._model is None:
            question = wire.ask_v1(name, rows)
        else:
            binary = self._protocol == "v2"
            question = wire.ask_v2(name, self._model, rows, binary=binary)
        reply = await self._patiently(question, len(rows))
        return self._counted(self._read(reply), len(rows))

    def _counted(self, values: np.ndarray, rows: int) -> Tensor:
        answer = wire.checked(values, rows, self._of)
        self._floats += answer.numel()
        return answer

    def _read(self, reply: Reply) -> np.ndarray:
        kind = reply.headers.get("Content-Type", "").partition(";")[0]
        if kind.startswith("image/"):
            raise TargetError(f"{self._of} answers a file of {kind}; wanted numbers")
        if self._protocol == "v1":
            return wire.answer_v1(reply.body, self._of)
        return wire.answer_v2(reply.headers, reply.body, self._of)

    async def _patiently(self, question: wire.Question, rows: int = 0) -> Reply:
        """The answer to one request, which is sent again for as long as it is put off."""
        left_s = self._patience_s
        while True:
            reply = await self._send(question, rows)
            if reply.status == 200:
                return reply
            if reply.status not in (429, 503):
                raise await self._refusal(reply)
            wait_s = _retry_after(reply.headers)
            if wait_s > left_s or await self._over_within(wait_s):
                raise self._put_off(reply, wait_s)
            left_s -= wait_s

    async def _over_within(self, seconds: float) -> bool:
        """Wait, unless the query is over; whether it is."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)
        return self._over.is_set()

    def _put_off(self, reply: Reply, wait_s: float) -> Exception:
        said = f"{reply.status}, {_said(reply.body)}, again in {wait_s:g} s"
        if reply.status == 429:
            return Refused(f"{self._of} puts this account off beyond the patience: {said}")
        return TargetError(f"{self._of} does not answer within {self._patience_s:g} s: {said}")

    async def _send(self, question: wire.Question, rows: int = 0) -> Reply:
        """One exchange that comes about; ``rows`` are counted each time that they go out."""
        for attempt in range(RETRIES + 1):
            try:
                return await self._exchange(question, rows)
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                if attempt == RETRIES or await self._over_within(BACKOFF_S * 2**attempt):
                    raise self._broken(error) from error
        raise AssertionError("unreachable")

    def _broken(self, error: Exception) -> TargetError:
        if isinstance(error, aiohttp.ClientConnectorError):
            what = f"cannot be reached ({error.strerror or error}): is it running?"
        elif isinstance(error, TimeoutError):
            what = f"takes over {self._timeout_s:g} s to answer"
        else:
            what = f"closes the connection ({type(error).__name__})"
        return TargetError(f"{self._of} {what}, {RETRIES + 1} tries")

    async def _exchange(self, question: wire.Question, rows: int) -> Reply:
        if self._http is None:
            self._http = self._session()
        url, body = self._target + question.path, question.body
        try:
            # a redirect would send rows and key elsewhere
            async with self._http.request(
                "POST" if body else "GET",
                url,
                data=body or None,
                headers=question.headers,
                allow_redirects=False,
            ) as response:
                return Reply(response.status, response.headers, await self._whole(response))
        except aiohttp.ClientConnectorError:
            rows = 0  # no connection came about, so nothing went out
            raise
        finally:
            self._rows += rows

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        """A body that the target cannot make as long as our memory."""
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > LARGEST:
                raise TargetError(f"{self._of} answers over {LARGEST} bytes to one request")
        return bytes(body)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            headers=self._headers,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def _refusal(self, reply: Reply) -> Exception:
        """What a status other than 200 means to an attack."""
        said = _said(reply.body)
        if reply.status == 403:
            return Refused(f"{self._of} denies this account: {said}")
        if reply.status == 401:
            return ConfigError(
                f"{self._of} refuses the key (401, {said}); give a key that is in force"
            )
        if reply.status == 404:
            return ConfigError(f"{self._of} has no model '{self._name}'; {await self._models()}")
        return _Bad(f"{self._of} refuses what is sent: {reply.status}, {said}")

    async def _models(self) -> str:
        """A remedy for an unknown model, where the target lists its models."""
        reply = await self._send(wire.Question("/v1/models", b"", {}))
        try:
            names = orjson.loads(reply.body)["models"]
            return did_you_mean(self._name, map(str, names))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return "give the name under which it is served"


def _said(body: bytes) -> str:
    """The words of a refusal, at most 200 characters of them."""
    try:
        said = orjson.loads(body)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        said = body.decode(errors="replace") or "no words"
    return " ".join(str(said).split())[:200]


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a refusal asks to wait; one where it does not say, and never none: patience must end."""
    text = headers.get("Retry-After", "")
    return max(float(text), BACKOFF_S) if text.isascii() and text.isdigit() else 1.0
