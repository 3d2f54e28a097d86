"""The config file: what an operator may set, its defaults, and clear words for what is wrong in it."""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)

import defenses
import detectors
from mantlet import registry
from mantlet.errors import ConfigError
from mantlet.plugin import Defense, Detector, InputDefense, Plugin
from serving import victims
from serving.campaigns import Search
from serving.drift import Watch
from serving.events.webhook import Webhook
from serving.explaining import Explain
from serving.folding import ANSWERED, TAKEN
from serving.policy import Level, RateText, check_levels
from serving.victims.base import VictimPlugin


class Section(BaseModel):
    """A part of the config file; unknown settings are refused, so a typo turns nothing off."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _plugin(value: object, known: dict[str, type[Any]], what: str, info: ValidationInfo) -> Any:
    if isinstance(value, Plugin):
        return value
    settings = value if isinstance(value, dict) else {"type": value}
    name = settings.get("type")
    if not isinstance(name, str):
        raise ValueError(f"a {what} needs a 'type'; known: {', '.join(sorted(known))}")
    if name not in known:
        hint = registry.did_you_mean(name, known)
        raise ValueError(f"no {what} of type '{name}' is installed; {hint}")
    fields = known[name].model_fields
    paths = [f for f in settings if f in fields and fields[f].annotation in (Path, Path | None)]
    settings = settings | {field: _path(settings[field], info) for field in paths}
    return registry.parse([known[name]], settings)


def _path(value: object, info: ValidationInfo) -> object:
    """Paths in the file are relative to the file."""
    folder = (info.context or {}).get("folder")
    if folder is None or not isinstance(value, (str, Path)):
        return value
    return Path(folder) / Path(value).expanduser()


FilePath = Annotated[Path, BeforeValidator(_path)]
AnyDefense = Annotated[
    Defense, BeforeValidator(lambda v, info: _plugin(v, dict(defenses.known()), "defense", info))
]
AnyInputDefense = Annotated[
    InputDefense,
    BeforeValidator(
        lambda v, info: _plugin(v, dict(defenses.known_inputs()), "input defense", info)
    ),
]
AnyDetector = Annotated[
    Detector, BeforeValidator(lambda v, info: _plugin(v, dict(detectors.known()), "detector", info))
]
AnyVictim = Annotated[
    VictimPlugin, BeforeValidator(lambda v, info: _plugin(v, dict(victims.known()), "victim", info))
]


class Listen(Section):
    """Where clients reach the gateway, and how much of their bytes and time it takes."""

    host: str = "127.0.0.1"
    """Address to listen on; ``0.0.0.0`` for all of the machine."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of the clients; 0 lets the system choose."""
    workers: PositiveInt = 1
    """Processes that share the port. Each loads every model; all share one store."""
    max_body_bytes: PositiveInt = 8 * 1024 * 1024
    """A longer body is refused with 413, before it is read where its length is announced."""
    max_header_bytes: PositiveInt = 16 * 1024
    """A longer request line with headers is refused with 431."""
    max_headers: PositiveInt = 64
    """More headers than that are refused with 431."""
    header_timeout_s: PositiveFloat = 10.0
    """How long a connection may take to send its headers."""
    body_timeout_s: PositiveFloat = 20.0
    """How long a body may take to arrive, before it is refused with 408, and a client may take nothing of its answer."""
    keep_alive_s: PositiveFloat = 75.0
    """How long a connection may wait for its next request."""
    max_connections: PositiveInt = 4096
    """Connections beyond that are refused with 503."""
    drain_s: PositiveFloat = 30.0
    """How long requests under way may take after SIGTERM."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses of proxies whose ``X-Forwarded-For`` is believed."""


def _filled(value: SecretStr) -> SecretStr:
    if not value.get_secret_value():
        raise ValueError("is empty, which everybody knows; use: openssl rand -hex 32")
    return value


class Admin(Section):
    """The operator's port, with the metrics. Keep it on loopback."""

    host: str = "127.0.0.1"
    """Address to listen on. Beyond loopback a token is required."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8081
    """Port of the operator; worker n listens n ports above it."""
    token: Annotated[SecretStr, AfterValidator(_filled)] | None = None
    """When set, every request needs ``Authorization: Bearer`` with it."""


class Identity(Section):
    """Who clients are: ``open`` lets everybody in by address, otherwise a key is needed."""

    open: bool = False
    """Whether a request without a key is taken; its client is then its address."""
    keys: Path = Path("keys.json")
    """The file of the keys, relative to ``data_dir``."""
    deny: tuple[str, ...] = ()
    """Client names, ``address:IP`` for addresses, or ids from the log, that are refused with 403."""
    allow: tuple[str, ...] = ()
    """Clients, named likewise, that are watched and always treated at the first level of the policy."""


class Tier(Section):
    """What one client of the tier may ask for; ``null`` is no limit."""

    requests: RateText | None = None
    """Requests in a time, such as ``100/second``; several with ``;`` between them."""
    rows: RateText | None = None
    """Rows in a time, such as ``50000/day``; several with ``;`` between them."""
    explanations: RateText | None = None
    """Rows that are explained in a time, such as ``100/day``; each counts as one of ``rows``, too."""
    pixels: RateText | None = None
    """Pixels in a time of the pictures that are sent to a model that translates, such as ``100000000/day``."""


class Queue(Section):
    """The micro-batcher: how large a batch, how long a queue, how long an answer may take."""

    max_batch_rows: PositiveInt = 256
    """Rows that go through the model at once."""
    pixels_a_row: PositiveInt = 4096
    """Pixels of a picture of any size that count as a row, in the two bounds above and below."""
    max_queue_rows: PositiveInt = 4096
    """Rows that may wait; requests beyond that are refused with 503."""
    max_rows_per_request: PositiveInt = 256
    """A request with more rows is refused with 413."""
    deadline_s: PositiveFloat = 10.0
    """A request that waits longer is refused with 503, before any compute."""
    retry_after_s: PositiveFloat = 1.0
    """What ``Retry-After`` says in a 503."""

    @property
    def retry_after(self) -> str:
        """The header's value: whole seconds."""
        return str(max(1, round(self.retry_after_s)))


class Model(Section):
    """One protected model: its victim, what watches it and what changes its answers.

    ``example`` is a PNG, JPEG or .npy input; ``serve`` prints a curl line that posts it.
    """

    victim: AnyVictim
    """What is protected; see the victims below."""
    calibration: FilePath | None = None
    """What detectors learned of benign traffic; written by ``mantlet calibrate``."""
    detectors: tuple[AnyDetector, ...] = ()
    """What watches the clients."""
    defenses: tuple[AnyDefense, ...] = ()
    """What may change answers, in the order in which they run."""
    input_defenses: tuple[AnyInputDefense, ...] = ()
    """What changes the rows that the model is asked, of everybody and always, in order."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 1e-6
    """Of how many honest clients at most one is ever accused: 1e-6 is one in a million."""
    policy: tuple[Level, ...] = ()
    """Levels in rising order. Without any, all defenses run for everybody."""
    campaigns: Search = Search()
    """How campaigns of many accounts are looked for."""
    drift: Watch = Watch()
    """When the traffic of all clients together counts as unlike the calibration."""
    shadow: bool = False
    """Decide and log what the policy would do, and treat everybody at its first level."""
    explain: Explain | None = None
    """What explanations it gives; none where this is not set."""
    answer: Literal["probabilities", "labels"] = "probabilities"
    """``labels`` answers one integer a row in place of probabilities, to everybody."""
    queue: Queue = Queue()
    """The micro-batcher."""
    example: FilePath | None = None
    """An input for the curl line that ``serve`` prints: PNG, JPEG or .npy."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Model":
        for what, plugins in (
            ("defense", (*self.defenses, *self.input_defenses)),
            ("detector", self.detectors),
        ):
            _refuse_repeats(what, [p.name for p in plugins])
        for detector in self.detectors:
            if detector.name in TAKEN or detector.name.startswith(ANSWERED):
                raise ValueError(
                    f"detector '{detector.name}': this name is taken; give it another 'name'"
                )
        check_levels(self.policy, [d.name for d in self.defenses], [d.name for d in self.detectors])
        return self


def _refuse_repeats(what: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{what} '{repeated[0]}' is there twice; give each its own 'name'")


def _refuse_longer_than_remembered(models: Mapping[str, Model], remember_s: float) -> None:
    """Raise `ValueError` where a refused client would be forgotten, and let in, before its time."""
    for name, level in ((name, level) for name, model in models.items() for level in model.policy):
        for setting, lasts_s in (("deny_s", level.deny_s or 0.0), ("hold_s", level.hold_s)):
            if lasts_s > remember_s:
                raise ValueError(
                    f"models.{name}.policy: level '{level.name}' has {setting} {lasts_s:.12g}, and clients are"
                    f" forgotten after remember_s {remember_s:.12g}; raise remember_s, or lower {setting}"
                )


class Settings(Section):
    """The whole config file."""

    listen: Listen = Listen()
    """The port of the clients."""
    admin: Admin = Admin()
    """The port of the operator."""
    identity: Identity = Identity()
    """Who clients are."""
    data_dir: Path = Path(".mantlet")
    """Folder of secret, keys and store, relative to where ``mantlet`` is started."""
    secret: SecretStr | None = None
    """Keys the noise and the hashes of clients; 16 characters or more. Made at the first start."""
    store: str = "sqlite:///state.db"
    """``memory://``, ``sqlite:///FILE`` relative to ``data_dir``, or ``redis://:PASSWORD@HOST:PORT/DB``."""
    store_away: Literal["closed", "serve"] = "closed"
    """While the store is away: ``closed`` answers 503, ``serve`` goes by what it last knew."""
    events: str = "jsonl:///events.jsonl"
    """Where events are kept: ``jsonl:///FILE`` or ``sqlite:///FILE``, relative to ``data_dir``."""
    events_file_mib: PositiveInt = 64
    """A file of JSON lines that is larger is put away, and the chain goes on in a new one."""
    webhook: Webhook | None = None
    """Who else is told of events."""
    remember_s: PositiveFloat = 180 * 86_400.0
    """Clients not seen for that long are forgotten, with their alarms."""
    tiers: dict[str, Tier] = {"default": Tier()}
    """Limits of a client by the tier of its key; ``default`` must be there."""
    overall: Tier = Tier()
    """Limits of all clients together."""
    device: str = "cpu"
    """Where torch runs: ``cpu``, ``cuda``, ..."""
    threads: PositiveInt = 1
    """Threads of one forward pass."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important events that are logged."""
    models: Annotated[dict[str, Model], Field(min_length=1)]
    """The protected models, by the name they have in paths."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        if "default" not in self.tiers:
            raise ValueError(f"tiers {sorted(self.tiers)} lack 'default'; add it, it may be empty")
        if self.listen.workers > 1 and self.store.startswith("memory:"):
            raise ValueError(
                f"{self.listen.workers} workers cannot share 'memory://': each would keep alarms and"
                " budgets of its own; set store: sqlite:///state.db or workers: 1"
            )
        if self.listen.port and self.listen.port == self.admin.port:
            raise ValueError(f"listen.port and admin.port are both {self.listen.port}; change one")
        _refuse_longer_than_remembered(self.models, self.remember_s)
        if self.admin.token is None and not is_loopback(self.admin.host):
            raise ValueError(
                f"admin.host '{self.admin.host}' can be reached from elsewhere; set admin.token"
            )
        for name, model in self.models.items():
            for level in model.policy:
                for tier in level.tiers:
                    if tier not in self.tiers:
                        raise ValueError(
                            f"models.{name}: policy level '{level.name}' is for tier '{tier}', which is"
                            f" not in 'tiers'; {registry.did_you_mean(tier, self.tiers)}"
                        )
            if not name or any(c in name for c in "/:?#% "):
                raise ValueError(
                    f"model name '{name}' does not fit into a path; use a-z, 0-9, - _ ."
                )
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can mean itself by an address or name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Twice(Exception):
    """A setting is written twice in one section."""


class _Once(yaml.SafeLoader):
    """Refuses a setting that is written twice, of which YAML would silently take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                where = f"in line {lines[key.value]} and in line {line}"
                raise _Twice(f"'{key.value}' is written twice, {where}; keep one of them")
            lines[key.value] = line
        return node


def load(path: Path, overrides: Iterable[str] = ()) -> Settings:
    """Read and check a config file; ``overrides`` are ``a.b=value`` texts, with YAML values.

    Raises `ConfigError` with one line a mistake: file, field, value, remedy.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Once)  # noqa: S506  # a safe loader
    except FileNotFoundError:
        raise ConfigError(f"config '{path}': no such file; give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config '{path}' cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"config '{path}' is not YAML: {error}") from error
    except _Twice as error:
        raise ConfigError(f"config '{path}': {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(
            f"config '{path}' holds {type(raw).__name__}; it must map settings to values"
        )
    for override in overrides:
        assign(raw, override)
    try:
        return Settings.model_validate(raw, context={"folder": path.parent})
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(path, error))) from error


def require_tier(settings: Settings, tier: str) -> None:
    """Raise `ConfigError` for a tier that the config does not have."""
    if tier not in settings.tiers:
        raise ConfigError(
            f"tier '{tier}' is unknown; {registry.did_you_mean(tier, settings.tiers)}"
        )


def require_model(settings: Settings, name: str) -> None:
    """Raise `ConfigError` for a model that the config does not have."""
    if name not in settings.models:
        raise ConfigError(
            f"model '{name}' is unknown; {registry.did_you_mean(name, settings.models)}"
        )


def chosen_model(settings: Settings, name: str) -> tuple[str, Model]:
    """A model of the config and its name, the only one by default.

    Raises `ConfigError` for a name that is not there, and for none where there are several.
    """
    if not name and len(settings.models) > 1:
        raise ConfigError(
            f"the config has models {', '.join(settings.models)}; name one with --model"
        )
    name = name or next(iter(settings.models))
    require_model(settings, name)
    return name, settings.models[name]


def assign(
    raw: dict[str, Any], text: str, *, what: str = "override", example: str = "listen.port=9000"
) -> None:
    """Put ``a.b=value``, a YAML value, into nested sections; raises `ConfigError`, which says ``what`` it is."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{what} '{text}': write it as field=value, such as {example}")
    *parents, last = name.split(".")
    section = raw
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ConfigError(f"{what} '{text}': '{parent}' is no section of the config")
    try:
        section[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{what} '{text}': '{value}' is not YAML: {error}") from error


def _explain(path: Path, error: ValidationError) -> Iterable[str]:
    for mistake in error.errors(include_url=False):
        field = ".".join(str(part) for part in mistake["loc"]) or "(whole file)"
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            message = "unknown setting; remove it or mend its spelling"
        elif mistake["type"] == "missing":
            message = "is missing; add it"
        elif mistake["type"] == "path_type":
            message = "is no path; write a path as text"
        elif mistake["type"] == "too_short":
            message = f"is too short; it needs at least {mistake['ctx']['min_length']}"
        secret = field.rpartition(".")[2] in ("secret", "token")
        shown = None if secret else mistake["input"]
        value = f" = {shown!r}" if isinstance(shown, (str, int, float, bool)) else ""
        yield f"{path}: {field}{value}: {message}"
