"""A victim that another server runs: a reverse proxy to the Open Inference Protocol, V2 or V1."""

import asyncio
import hashlib
import threading
from collections.abc import Coroutine, Mapping
from typing import Annotated, Any, Literal, TypeVar

import aiohttp
import numpy as np
import orjson
import structlog
import torch
from pydantic import Field, PositiveFloat, PositiveInt, PrivateAttr, SecretStr
from torch import Tensor

from mantlet.errors import ConfigError, VictimError, VictimTimeout
from mantlet.plugin import Setup
from mantlet.types import InputSpec, Kind, Prediction
from serving.victims.base import VictimPlugin

log = structlog.get_logger(__name__)
T = TypeVar("T")
JSON = "application/json"
RETRIES = 2


class UpstreamVictim(VictimPlugin):
    """Sends each micro-batch of rows to ``url`` and checks what comes back.

    ``protocol`` v2 reads the model's metadata for its shapes; v1 has none, so ``input_shape`` and
    ``classes`` must be set. ``scores`` says what the server answers. ``binary`` sends tensors in the
    binary extension: ``auto`` when the server announces it. ``headers`` go with every request.

    A request is sent again only when no connection came about: the server cannot have seen it, so
    nothing is computed or charged twice. ``pool_idle_s`` stays below the server's keep-alive time,
    so that no request goes out on a connection which the server is closing.
    """

    type: Literal["upstream"] = "upstream"
    url: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")]
    model: str
    model_version: str = ""
    protocol: Literal["v2", "v1"] = "v2"
    scores: Literal["probabilities", "logits"] = "probabilities"
    binary: Literal["auto", "always", "never"] = "auto"
    input_name: str = ""
    output_name: str = ""
    input_shape: tuple[PositiveInt, ...] = ()
    number_of_classes: PositiveInt | None = Field(None, alias="classes")
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    timeout_s: PositiveFloat = 10.0
    connect_timeout_s: PositiveFloat = 2.0
    pool: PositiveInt = 8
    pool_idle_s: PositiveFloat = 4.0
    max_answer_bytes: PositiveInt = 64 * 1024 * 1024

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
        return aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers)

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
        return self.model_version or "1"

    @property
    def concurrency(self) -> int:
        return self.pool

    @property
    def kind(self) -> Kind:
        return Kind.PROBABILITIES

    @property
    def input(self) -> InputSpec:
        return self._known.input

    @property
    def output(self) -> str:
        return self._known.output or "probabilities"

    @property
    def classes(self) -> int:
        return self._known.classes

    @property
    def fingerprint(self) -> str:
        """Of the model's metadata: an upstream does not show its weights. Weaker, and documented."""
        return self._known.fingerprint

    def predict(self, inputs: Tensor) -> Prediction:
        rows = self.normalized(inputs).contiguous().numpy()
        ask = self._ask_v2 if self.protocol == "v2" else self._ask_v1
        scores = torch.from_numpy(self._checked(self._call(ask(rows)), len(rows)))
        if self.scores == "logits":
            return Prediction(torch.softmax(scores, dim=1), Kind.PROBABILITIES, logits=scores)
        return Prediction(scores, Kind.PROBABILITIES)

    def _checked(self, answer: np.ndarray, rows: int) -> np.ndarray:
        if answer.shape != (rows, self._known.classes):
            raise VictimError(
                f"upstream '{self.url}' answered shape {answer.shape} to {rows} rows,"
                f" wanted ({rows}, {self._known.classes})"
            )
        if not np.isfinite(answer).all():
            raise VictimError(f"upstream '{self.url}' answered values that are not finite")
        return answer

    @property
    def _path(self) -> str:
        version = f"/versions/{self.model_version}" if self.model_version else ""
        return f"{self.url.rstrip('/')}/{self.protocol}/models/{self.model}{version}"

    async def _learn(self) -> "_Known":
        """Shapes and abilities, from the server's metadata and the settings."""
        if self.protocol == "v1":
            if not self.input_shape or not self.number_of_classes:
                raise ConfigError(
                    f"victim '{self.name}': protocol v1 has no metadata; set input_shape and classes"
                )
            identity = [self.protocol, self.model, self.model_version, self.input_shape]
            return _Known.of(self, {}, binary=False, identity=identity)
        _, body = await self._send("GET", self._path)
        metadata = _object(body, self.url)
        _, about = await self._send("GET", f"{self.url.rstrip('/')}/v2")
        announced = "binary_tensor_data" in (_object(about, self.url).get("extensions") or [])
        binary = self.binary == "always" or (self.binary == "auto" and announced)
        fields = ("name", "platform", "versions", "inputs", "outputs")
        return _Known.of(self, metadata, binary=binary, identity=[metadata.get(f) for f in fields])

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
        return _read_v2(answered, body, known.output, self.url)

    async def _ask_v1(self, rows: np.ndarray) -> np.ndarray:
        body = orjson.dumps({"instances": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
        _, answer = await self._send("POST", f"{self._path}:predict", body, {"Content-Type": JSON})
        return _array(_object(answer, self.url).get("predictions"), self.url)

    async def _send(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Mapping[str, str], bytes]:
        for attempt in range(RETRIES + 1):
            try:
                async with self._http.request(method, url, data=body, headers=headers) as response:
                    answer = await self._read(response)
                    _raise_for_status(response.status, url)
                    return response.headers, answer
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                # no connection came about, so nothing was computed or charged: safe to try again
                if attempt == RETRIES:
                    raise VictimError(f"upstream '{url}' cannot be reached: {error}") from error
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


class _Known:
    """What the gateway has learned of the served model."""

    def __init__(
        self,
        spec: InputSpec,
        output: str,
        classes: int,
        *,
        binary: bool,
        fingerprint: str,
    ) -> None:
        self.input = spec
        self.output = output
        self.classes = classes
        self.binary = binary
        self.fingerprint = fingerprint

    @classmethod
    def of(
        cls, victim: UpstreamVictim, metadata: Mapping[str, Any], *, binary: bool, identity: object
    ) -> "_Known":
        tensor = _pick(metadata.get("inputs") or [], victim.input_name, "input", victim)
        answer = _pick(metadata.get("outputs") or [], victim.output_name, "output", victim)
        shape = victim.input_shape or tuple(tensor.get("shape", ())[1:])
        if not shape or any(not isinstance(axis, int) or axis < 1 for axis in shape):
            raise ConfigError(
                f"victim '{victim.name}': the server leaves axes open: {list(shape)};"
                " set input_shape, such as [1, 28, 28]"
            )
        served = (answer.get("shape") or [-1])[-1]
        classes = victim.number_of_classes or (served if served > 1 else None)
        if classes is None:
            raise ConfigError(
                f"victim '{victim.name}': the server does not say how many classes it answers;"
                " set classes"
            )
        datatype = tensor.get("datatype", "FP32")
        if datatype not in DTYPES:
            raise ConfigError(
                f"victim '{victim.name}': the server takes {datatype}; served are {', '.join(DTYPES)}"
            )
        name = tensor.get("name") or "input"
        return cls(
            InputSpec(shape, victim.low, victim.high, name, datatype),
            answer.get("name", ""),
            classes,
            binary=binary,
            fingerprint=hashlib.sha256(orjson.dumps(identity)).hexdigest(),
        )


DTYPES = {"FP32": "<f4", "FP64": "<f8", "FP16": "<f2"}


def _pick(
    tensors: list[dict[str, Any]], name: str, what: str, victim: UpstreamVictim
) -> dict[str, Any]:
    """The tensor of that name, or the only one; a server without metadata has the named one."""
    if not tensors:
        return {"name": name}
    for tensor in tensors:
        if tensor.get("name") == name or (not name and len(tensors) == 1):
            return tensor
    found = ", ".join(str(tensor.get("name")) for tensor in tensors)
    field = "input_name" if what == "input" else "output_name"
    raise ConfigError(
        f"victim '{victim.name}': the server has {what}s {found}; name one of them with {field}"
    )


def _raise_for_status(status: int, url: str) -> None:
    if status == 200:
        return
    if status == 504:
        raise VictimTimeout(f"upstream '{url}' answered 504: the server behind it is too slow")
    meaning = {
        401: "it does not know our credentials: set headers",
        403: "it refuses our credentials",
        404: "it does not know the model",
        429: "it limits our rate",
        503: "it is overloaded or not ready",
    }.get(status, "it cannot answer")
    raise VictimError(f"upstream '{url}' answered {status}: {meaning}")


def _object(body: bytes, url: str) -> dict[str, Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise VictimError(f"upstream '{url}' answered no JSON: {error}") from error
    if not isinstance(answer, dict):
        raise VictimError(f"upstream '{url}' answered JSON that is no object")
    return answer


def _array(values: object, url: str, shape: object = None) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float32)
        return array if shape is None else array.reshape(shape)  # type: ignore[call-overload]  # any junk raises
    except (TypeError, ValueError) as error:
        raise VictimError(f"upstream '{url}' answered no tensor of numbers: {error}") from error


def _read_v2(headers: Mapping[str, str], body: bytes, output: str, url: str) -> np.ndarray:
    length = headers.get("Inference-Header-Content-Length")
    if length is not None and not (length.isdigit() and int(length) <= len(body)):
        raise VictimError(f"upstream '{url}' lies about its header: {length} of {len(body)} bytes")
    head = body if length is None else body[: int(length)]
    tail = b"" if length is None else body[int(length) :]
    for tensor in _object(head, url).get("outputs") or []:
        parameters = tensor.get("parameters") or {}
        size = parameters.get("binary_data_size")
        raw, tail = (tail[:size], tail[size:]) if isinstance(size, int) else (None, tail)
        if output and tensor.get("name") != output:
            continue
        if raw is None:
            return _array(tensor.get("data"), url, tensor.get("shape"))
        dtype = DTYPES.get(tensor.get("datatype", ""))
        if dtype is None or len(raw) % np.dtype(dtype).itemsize or len(raw) != size:
            raise VictimError(
                f"upstream '{url}' answered {len(raw)} bytes of {tensor.get('datatype')}"
            )
        return _array(np.frombuffer(raw, dtype), url, tensor.get("shape"))
    raise VictimError(f"upstream '{url}' answered without output '{output}'")
