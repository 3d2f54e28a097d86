"""All that a running gateway holds, shared by the routes: models, admission, readiness."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mantlet.errors import RequestError
from serving.admission import Admission, Client
from serving.events.log import EventLog
from serving.exchange import Receive, Room, Scope, headers_of, read_body
from serving.gateway import Gateway
from serving.metrics import Metrics
from serving.patrol import Patrol
from serving.settings import Settings
from serving.stores.base import Store

BODIES = 64
"""Bodies of the largest size that may arrive at once, or as many more as are smaller."""


class Asked(NamedTuple):
    """A request that was let in: who asks which model, with which headers and body."""

    client: Client
    gateway: Gateway
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Service:
    """The state of the data plane. ``gateways`` holds the models that are loaded.

    ``draining`` is not ready any more but serves as before; ``leaving`` takes no new connections and
    sends clients away with their answers.
    """

    settings: Settings
    store: Store
    admission: Admission
    events: EventLog
    clock: Callable[[], float]
    metrics: Metrics = field(default_factory=Metrics)
    gateways: dict[str, Gateway] = field(default_factory=dict)
    patrols: list[Patrol] = field(default_factory=list)
    draining: bool = False
    leaving: bool = False
    room: Room = field(init=False)

    def __post_init__(self) -> None:
        self.room = Room(BODIES * self.settings.listen.max_body_bytes)

    @property
    def ready(self) -> bool:
        """Every model of the config is loaded, and no drain has begun."""
        return not self.draining and self.gateways.keys() == self.settings.models.keys()

    def model_ready(self, name: str) -> bool:
        """This model is loaded, and no drain has begun."""
        return not self.draining and name in self.gateways

    def known(self, name: str, version: str | None = None) -> None:
        """404 for a model, or a version of it, that the config does not have."""
        if name not in self.settings.models:
            raise RequestError(
                404, f"model '{name[:80]}' is not served here", reason="unknown_model"
            )
        gateway = self.gateways.get(name)
        if gateway and version is not None and version != gateway.version:
            raise RequestError(
                404,
                f"model '{name}' has version {gateway.version}, not '{version[:20]}'",
                reason="unknown_model",
            )

    def gateway(self, name: str, version: str | None = None) -> Gateway:
        """A loaded model; 404 when it is unknown, 503 while it is not loaded yet."""
        self.known(name, version)
        if name not in self.gateways:
            wait = {"Retry-After": self.settings.models[name].queue.retry_after}
            raise RequestError(
                503, f"model '{name}' is not ready yet", reason="not_ready", headers=wait
            )
        return self.gateways[name]

    def identify(self, scope: Scope, headers: Mapping[str, str]) -> Client:
        """Who asks, by credential or address."""
        scheme, _, credential = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            credential = headers.get("x-api-key", "")
        address = (scope.get("client") or ("unknown", 0))[0]
        return self.admission.identify(credential.strip() or None, address, self.clock())

    async def let_in(
        self, scope: Scope, receive: Receive, check: Callable[[Gateway], object] | None = None
    ) -> Asked:
        """A request to the model of its path, read once its client was admitted; ``check`` raises before that."""
        headers, path = headers_of(scope), scope["path_params"]
        client = self.identify(scope, headers)
        gateway = self.gateway(path["model"], path.get("version"))
        if check:
            check(gateway)
        await gateway.admit(client)
        return Asked(client, gateway, headers, await self.read_body(receive, headers))

    async def read_body(self, receive: Receive, headers: Mapping[str, str]) -> bytes:
        """The request's body within the limits of the config; compressed bodies are refused."""
        encoding = headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise RequestError(
                415, f"Content-Encoding '{encoding[:40]}' is not taken", reason="media_type"
            )
        listen = self.settings.listen
        return await read_body(
            receive,
            headers,
            limit=listen.max_body_bytes,
            timeout_s=listen.body_timeout_s,
            room=self.room,
        )

    def close(self) -> None:
        """Finish batches, let victims go, write what is left of the events, and the store."""
        for patrol in self.patrols:
            patrol.close()
        for gateway in self.gateways.values():
            gateway.close()
        self.events.close()
        self.store.close()
