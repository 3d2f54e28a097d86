"""A victim that another server runs: a reverse proxy to the Open Inference Protocol, V2 or V1."""

import asyncio
import hashlib
import os
import re
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import orjson
import structlog
import torch
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, PrivateAttr, SecretStr
from torch import Tensor

from mantlet.attribution import Explainer
from mantlet.errors import ConfigError, VictimError, VictimTimeout
from mantlet.finite import all_finite
from mantlet.plugin import Setup
from mantlet.types import OPEN, InputSpec, Kind, Prediction, Task
from serving.explaining import PROXIED, Explain
from serving.victims import answers
from serving.victims.answers import DTYPES, ModelMetadata, TensorMetadata
from serving.victims.base import VictimPlugin
from serving.victims.pictures import Tiling

log = structlog.get_logger(__name__)
T = TypeVar("T")
JSON = "application/json"
RETRIES = 2


def _address(url: str) -> str:
    parts = urlsplit(url)  # raises ValueError for a port that is none
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError(f"'{url}' is no address of a server; write http://HOST:PORT")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("only scheme, host, port and path; credentials belong into 'headers'")
    return url.rstrip("/")


def _sendable(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in headers.items():
        if not re.fullmatch(r"[A-Za-z0-9-]+", name) or not value.get_secret_value().isprintable():
            raise ValueError(f"header '{name}' cannot be sent: letters, digits, '-'; one line")
    return headers


PathPart = Annotated[str, Field(pattern=r"^[^\s/?#%]*$")]


class UpstreamVictim(VictimPlugin):
    """Sends each micro-batch of rows to ``url`` and checks what comes back.

    ``protocol`` v2 reads the model's metadata for its shapes; v1 has none, so ``input_shape`` and
    ``classes``, or ``output_shape`` of pictures, must be set. ``scores`` says what the server answers. ``binary`` sends tensors in the
    binary extension: ``auto`` when the server announces it. ``headers`` go with every request.

    A request is sent again only when no connection came about: the server cannot have seen it, so
    nothing is computed or charged twice. ``pool_idle_s`` stays below the server's keep-alive time,
    so that no request goes out on a connection which the server is closing.
    """

    type: Literal["upstream"] = "upstream"
    url: Annotated[str, AfterValidator(_address)]
    """Scheme, host, port and perhaps a path, without ``/v2``."""
    model: Annotated[PathPart, Field(min_length=1)]
    """The name of the model there."""
    model_version: PathPart = ""
    """A version of it; the server chooses by default."""
    protocol: Literal["v2", "v1"] = "v2"
    """What the server speaks."""
    scores: Literal["probabilities", "logits"] = "probabilities"
    """What the server answers."""
    binary: Literal["auto", "always", "never"] = "auto"
    """Whether tensors go as bytes, in V2."""
    input_name: str = ""
    """Which input of several, or its name where metadata are missing."""
    output_name: str = ""
    """Which output of several."""
    input_shape: tuple[PositiveInt, ...] = ()
    """Shape of one row, where the server does not say it."""
    number_of_classes: PositiveInt | None = Field(None, alias="classes")
    """Number of classes, where the server does not say it."""
    output_axes: tuple[int, ...] = Field((), alias="output_shape", max_length=3)
    """Shape of one picture, where the server does not say it; -1 where the input decides."""
    scale: Annotated[int, Field(ge=1, le=16)] = 1
    """How many times as large as the input are the pictures of a model that translates."""
    headers: Annotated[dict[str, SecretStr], AfterValidator(_sendable)] = Field(
        default_factory=dict
    )
    """Sent with every request, such as credentials."""
    timeout_s: PositiveFloat = 8.0
    """How long an answer may take, before the client gets a 504."""
    connect_timeout_s: PositiveFloat = 2.0
    """How long one try to connect may take."""
    pool: PositiveInt = 8
    """Connections to the server, and batches under way at once."""
    pool_idle_s: PositiveFloat = 4.0
    """How long an unused connection is kept."""
    max_answer_bytes: PositiveInt = 64 * 1024 * 1024
    """A longer answer is refused."""

    _loop: asyncio.AbstractEventLoop = PrivateAttr()
    _thread: threading.Thread | None = PrivateAttr(None)
    _http: aiohttp.ClientSession = PrivateAttr()
    _known: "_Known" = PrivateAttr()

    def load(self, setup: Setup) -> None:
        if self._thread is None:
            self._start()
        self._known = self._call(self._learn())
        log.info(
            "victim_engine",
            victim=self.name,
            engine="upstream",
            reason=f"{self.protocol} at {self.url}, {'binary' if self._known.binary else 'JSON'}",
        )

    def _start(self) -> None:
        """A loop of its own: ``predict`` is synchronous, and must not need the gateway's loop."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstream", daemon=True)
        self._thread.start()
        self._http = self._call(self._connect())

    async def _connect(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=self.pool, keepalive_timeout=self.pool_idle_s)
        timeout = aiohttp.ClientTimeout(total=self.timeout_s, sock_connect=self.connect_timeout_s)
        headers = {name: value.get_secret_value() for name, value in self.headers.items()}
        # neither compressed answers, whose size nobody knows, nor cookies, which are state
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            headers={"Accept-Encoding": "identity"} | headers,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        if self._thread is None:
            return
        self._call(self._http.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._thread = None

    @property
    def version(self) -> str:
        return self.model_version or self._known.version

    @property
    def concurrency(self) -> int:
        return self.pool

    @property
    def input(self) -> InputSpec:
        return self._known.input

    @property
    def output(self) -> str:
        return self._known.output or super().output

    @property
    def output_shape(self) -> tuple[int, ...]:
        answered = self._known.output_shape
        return (3, *answered[1:]) if self.luma else answered

    @property
    def fingerprint(self) -> str:
        """Of the model's metadata: an upstream does not show its weights. Weaker, and documented."""
        return self._known.fingerprint

    def predict(self, inputs: Tensor) -> Prediction:
        if self.task is not Task.CLASSIFY:
            black_white = self.output_range or (0.0, 1.0)
            return self.pictured(inputs, self._answered, self._known.tiling, black_white)
        scores = self._answered(inputs)
        if self.scores == "logits":
            return Prediction(torch.softmax(scores, dim=1), Kind.PROBABILITIES, logits=scores)
        return Prediction(scores, Kind.PROBABILITIES)

    def explainer(self, settings: Explain, secret: bytes) -> Explainer:
        """The server's own ``:explain`` of V1, asked about one row to see whether it is there."""
        if self.task is not Task.CLASSIFY:
            raise ConfigError(
                f"victim '{self.name}' is there to {self.task}, and classifiers alone are explained;"
                " remove 'explain'"
            )
        if settings.classes != "top" or "methods" in settings.model_fields_set:
            raise ConfigError(
                f"victim '{self.name}': an upstream explains by its own method a class of its own choice;"
                " remove 'methods' and 'classes' from 'explain'"
            )
        try:
            self.explained(self.probe(1))
        except _NotThere as error:
            raise ConfigError(
                f"victim '{self.name}': the server explains nothing: {error}; remove 'explain'"
            ) from error
        return _Proxied(self)

    def explained(self, inputs: Tensor) -> Tensor:
        """(B, *shape) float32 maps of rows, as the server says them."""
        rows = self.normalized(inputs).contiguous().numpy()
        maps = self._call(self._ask_why(rows))
        if maps.shape != rows.shape or not all_finite(maps):
            raise VictimError(
                f"upstream '{self.url}' explained rows of {rows.shape} with {maps.shape}, or with values"
                " that are not finite; maps of the shape of the rows are taken"
            )
        return torch.from_numpy(maps)

    def _answered(self, inputs: Tensor) -> Tensor:
        """(B, *output) float32 of rows, as the server says it."""
        rows = self.normalized(inputs).contiguous().numpy()
        ask = self._ask_v2 if self.protocol == "v2" else self._ask_v1
        return torch.from_numpy(self._checked(self._call(ask(rows)), len(rows)))

    def _checked(self, answer: np.ndarray, rows: int) -> np.ndarray:
        wanted = InputSpec((OPEN, *self._known.output_shape))
        if len(answer) != rows or not wanted.takes(answer.shape):
            raise VictimError(
                f"upstream '{self.url}' answered shape {answer.shape} to {rows} rows,"
                f" wanted ({rows}, {', '.join(map(str, self._known.output_shape))})"
            )
        if not all_finite(answer):
            raise VictimError(f"upstream '{self.url}' answered values that are not finite")
        return answer

    @property
    def _path(self) -> str:
        version = f"/versions/{self.model_version}" if self.model_version else ""
        return f"{self.url}/{self.protocol}/models/{self.model}{version}"

    async def _learn(self) -> "_Known":
        """Shapes and abilities, from the server's metadata and the settings."""
        if self.protocol == "v1":
            told = self.number_of_classes if self.task is Task.CLASSIFY else self.output_axes
            if not self.input_shape or not told:
                what = "classes" if self.task is Task.CLASSIFY else "output_shape"
                raise ConfigError(
                    f"victim '{self.name}': protocol v1 has no metadata; set input_shape and {what}"
                )
            identity = [self.protocol, self.model, self.model_version, self.input_shape]
            return _Known.of(self, ModelMetadata(), binary=False, identity=identity)
        _, body = await self._send("GET", self._path)
        metadata = answers.model_metadata(body, self.url)
        binary = self.binary == "always" or (self.binary == "auto" and await self._announced())
        return _Known.of(self, metadata, binary=binary, identity=metadata.model_dump())

    async def _announced(self) -> bool:
        """Whether the server says that it takes binary tensors; one without ``/v2`` does not."""
        try:
            _, body = await self._send("GET", f"{self.url}/v2")
        except _NotThere:
            return False
        extensions = answers.json_object(body, self.url).get("extensions")
        return isinstance(extensions, list) and "binary_tensor_data" in extensions

    async def _ask_v2(self, rows: np.ndarray) -> np.ndarray:
        known = self._known
        tensor: dict[str, Any] = {
            "name": known.input.name,
            "shape": rows.shape,
            "datatype": known.input.datatype,
        }
        wanted: dict[str, Any] = {"name": known.output} if known.output else {}
        raw = rows.astype(DTYPES[known.input.datatype], copy=False)
        headers, tail = {"Content-Type": JSON}, b""
        if known.binary:
            tail = raw.tobytes()
            tensor["parameters"] = {"binary_data_size": len(tail)}
            wanted["parameters"] = {"binary_data": True}
        else:
            tensor["data"] = raw.ravel()
        request = {"inputs": [tensor]} | ({"outputs": [wanted]} if known.output else {})
        head = orjson.dumps(request, option=orjson.OPT_SERIALIZE_NUMPY)
        if known.binary:
            headers["Content-Type"] = "application/octet-stream"
            headers["Inference-Header-Content-Length"] = str(len(head))
        answered, body = await self._send("POST", f"{self._path}/infer", head + tail, headers)
        return answers.v2_scores(answered, body, known.output, self.url)

    async def _ask_v1(self, rows: np.ndarray) -> np.ndarray:
        body = orjson.dumps({"instances": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
        _, answer = await self._send("POST", f"{self._path}:predict", body, {"Content-Type": JSON})
        return answers.v1_scores(answer, self.url)

    async def _ask_why(self, rows: np.ndarray) -> np.ndarray:
        body = orjson.dumps({"instances": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
        path = f"{self.url}/v1/models/{self.model}:explain"  # V1 knows no versions
        _, answer = await self._send("POST", path, body, {"Content-Type": JSON})
        return answers.v1_explanations(answer, self.url)

    async def _send(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Mapping[str, str], bytes]:
        for attempt in range(RETRIES + 1):
            try:
                # a redirect would send rows and credentials elsewhere, and perhaps twice
                async with self._http.request(
                    method, url, data=body, headers=headers, allow_redirects=False
                ) as response:
                    answer = await self._read(response)
                    _raise_for_status(response.status, url)
                    return response.headers, answer
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                # no connection came about, so nothing was computed or charged: safe to try again
                if attempt == RETRIES:
                    raise VictimError(
                        f"upstream '{url}' cannot be reached: {_unreached(error)}; is it running?"
                    ) from error
                await asyncio.sleep(0.05 * 2**attempt)
            except TimeoutError as error:
                raise VictimTimeout(f"upstream '{url}' took over {self.timeout_s} s") from error
            except aiohttp.ClientError as error:
                raise VictimError(f"upstream '{url}' broke off: {type(error).__name__}") from error
        raise AssertionError("unreachable")

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_chunked(1 << 16):
            body += chunk
            if len(body) > self.max_answer_bytes:
                raise VictimError(
                    f"upstream '{self.url}' answered more than {self.max_answer_bytes} bytes"
                )
        return bytes(body)


@dataclass(frozen=True, slots=True)
class _Proxied:
    """Explains as the server does, whatever the class."""

    victim: UpstreamVictim
    methods: tuple[str, ...] = (PROXIED,)

    def explain(self, inputs: Tensor, classes: Tensor, method: str) -> Prediction:
        return Prediction(self.victim.explained(inputs), Kind.ATTRIBUTIONS)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the gateway has learned of the served model."""

    input: InputSpec
    output: str
    output_shape: tuple[int, ...]
    tiling: Tiling | None
    version: str
    binary: bool
    fingerprint: str

    @classmethod
    def of(
        cls, victim: UpstreamVictim, metadata: ModelMetadata, *, binary: bool, identity: object
    ) -> "_Known":
        tensor = _pick(metadata.inputs, victim.input_name, "input", victim)
        answer = _pick(metadata.outputs, victim.output_name, "output", victim)
        shape = victim.input_shape or tensor.shape[1:]
        sides = shape[1:] if victim.task is Task.TRANSLATE and len(shape) == 3 else ()
        if not shape or any(axis < 1 for axis in shape[: len(shape) - len(sides)]):
            raise ConfigError(
                f"victim '{victim.name}': the server leaves axes open: {list(shape)};"
                " set input_shape, such as [1, 28, 28]"
            )
        if tensor.datatype not in DTYPES:
            raise ConfigError(
                f"victim '{victim.name}': the server takes {tensor.datatype}; served are"
                f" {', '.join(DTYPES)}"
            )
        versions = metadata.versions or []
        spec = victim.input_spec(
            victim.shape_of_rows(shape), tensor.name or "input", tensor.datatype
        )
        return cls(
            spec,
            answer.name,
            _output_shape(victim, answer),
            victim.tiling_of(spec, victim.scale) if victim.task is Task.TRANSLATE else None,
            versions[0] if len(versions) == 1 else "1",
            binary,
            hashlib.sha256(orjson.dumps(identity)).hexdigest(),
        )


def _output_shape(victim: UpstreamVictim, answer: TensorMetadata) -> tuple[int, ...]:
    """Of one answer, from the settings or else from the metadata."""
    if victim.task is Task.CLASSIFY:
        served = answer.shape[-1] if answer.shape else -1
        classes = victim.number_of_classes or (served if served > 1 else None)
        if classes is None:
            raise ConfigError(
                f"victim '{victim.name}': the server does not say how many classes it answers;"
                " set classes"
            )
        return (classes,)
    shape = victim.output_axes or answer.shape[1:]
    fixed = shape[:1] if victim.task is Task.TRANSLATE else shape
    if len(shape) != 3 or shape[0] not in (1, 3) or any(axis < 1 for axis in fixed):
        raise ConfigError(
            f"victim '{victim.name}': the server answers shape {list(shape)}, which is no picture; set"
            " output_shape, such as [1, 28, 28]"
        )
    return shape


def _pick(
    tensors: tuple[TensorMetadata, ...], name: str, what: str, victim: UpstreamVictim
) -> TensorMetadata:
    """The tensor of that name, or the only one; a server without metadata has the named one."""
    if not tensors:
        return TensorMetadata(name=name)
    for tensor in tensors:
        if tensor.name == name or (not name and len(tensors) == 1):
            return tensor
    found = ", ".join(tensor.name for tensor in tensors)
    field = "input_name" if what == "input" else "output_name"
    raise ConfigError(
        f"victim '{victim.name}': the server has {what}s {found}; name one of them with {field}"
    )


class _NotThere(VictimError):
    """The upstream does not know the path, or what it is asked for there."""


def _unreached(error: aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError) -> str:
    """Why no connection came about, in the system's words where it has some."""
    cause = getattr(error, "os_error", None)
    if isinstance(cause, ConnectionError) and cause.errno:
        return os.strerror(cause.errno).lower()
    return str(getattr(cause, "strerror", None) or error)


def _raise_for_status(status: int, url: str) -> None:
    if status == 200:
        return
    if status == 504:
        raise VictimTimeout(f"upstream '{url}' answered 504: the server behind it is too slow")
    kind = _NotThere if status in (404, 405, 501) else VictimError
    meaning = {
        401: "it does not know our credentials: set headers",
        403: "it refuses our credentials",
        404: "it does not know the model",
        429: "it limits our rate",
        503: "it is overloaded or not ready",
    }.get(status, "it redirects: set url" if 300 <= status < 400 else "it cannot answer")
    raise kind(f"upstream '{url}' answered {status}: {meaning}")
