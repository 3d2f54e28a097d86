"""What an event may be: a closed list of kinds with closed fields, none of which holds an input, an answer or a key."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

TEXT = 256
"""Characters of a text that are kept; a client's name comes from outside and may be of any length."""
MEMBERS = 10_000
"""Members of a campaign that one event names."""


class EventKind(StrEnum):
    """The kinds of events."""

    ALARM = "alarm"
    LEVEL = "level"
    BAN = "ban"
    UNBAN = "unban"
    OVERRIDE = "override"
    STANDING = "standing"
    CAMPAIGN = "campaign"
    DRIFT = "drift"
    KEY_CREATED = "key_created"
    KEY_REVOKED = "key_revoked"
    CONFIG_LOADED = "config_loaded"
    DROPPED = "dropped"
    REPAIRED = "repaired"


def _kept(value: object) -> object:
    """A text that JSON can hold, cut to what is kept."""
    if not isinstance(value, str):
        return value
    return value[:TEXT].encode("utf-8", "replace").decode()


Text = Annotated[str, BeforeValidator(_kept), Field(max_length=TEXT)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(allow_inf_nan=False)]


class Closed(BaseModel):
    """Fields that are named here, and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Opinion(Closed):
    """What one detector holds of a client."""

    suspicion: Share
    """How close it is to an alarm."""
    alarm: bool
    """Whether it has alarmed."""
    rows_at_alarm: Count | None = None
    """Rows that the client had asked when it did."""


class Subject(Closed):
    """Whom an event is about: the principal."""

    client: Text
    """The keyed hash by which logs and store know the client."""
    name: Text
    """The name of the key's client, or ``address:IP``."""
    tier: Text
    """The client's tier."""


class Seen(Closed):
    """At which model, and after how much."""

    model: Text
    """The model's name in the config."""
    weights: Text
    """The hash of the model's weights."""
    rows: Count
    """Rows that were asked of it so far."""
    detectors: dict[Text, Opinion] = {}
    """The evidence: what each detector holds, by its name."""


class Judged(Seen, Subject):
    """A client and the evidence for what is done about it."""

    suspicion: Share
    """The largest of the detectors that enforce."""
    campaign: Text | None = None
    """The campaign that the client belongs to."""
    progress: Share | None = None
    """How far the model is extracted, as far as that is known."""
    shadow: bool = False
    """Whether this was only decided, and nothing was done."""
    allowed: bool = False
    """Whether the client is on the allow list."""


class Alarm(Judged):
    """A detector alarmed about a client, for the first time."""

    kind: Literal[EventKind.ALARM] = EventKind.ALARM
    raised_by: tuple[Text, ...]
    """The detectors that alarmed just now."""


class LevelChange(Judged):
    """A client is treated at another level of the policy."""

    kind: Literal[EventKind.LEVEL] = EventKind.LEVEL
    before: Text
    """What held until now."""
    after: Text
    """What holds from now on; none when an override was taken back."""


class Ban(Judged):
    """A client is refused for a while."""

    kind: Literal[EventKind.BAN] = EventKind.BAN
    until: Seconds
    """When it ends, in seconds since 1970."""
    level: Text
    """The level of the policy that holds."""


class Unban(Subject):
    """A refusal was lifted before its time."""

    kind: Literal[EventKind.UNBAN] = EventKind.UNBAN
    model: Text | None = None
    """At which model; none of a log in which that was not told."""
    by: Text
    """Who decided."""


class Override(Subject):
    """An operator decided something about a client."""

    kind: Literal[EventKind.OVERRIDE] = EventKind.OVERRIDE
    model: Text | None = None
    """At which model; none for a tier, which holds at all."""
    setting: Text
    """What was set, such as ``tier`` or ``level``."""
    before: Text | None
    """What held until now."""
    after: Text | None
    """What holds from now on; none when an override was taken back."""
    by: Text
    """Who decided."""


class Standing(Judged):
    """A client's suspicion crossed a step, up or down; ``mantlet replay`` reads these."""

    kind: Literal[EventKind.STANDING] = EventKind.STANDING
    step: Share
    """The step that was crossed."""
    level: Text
    """The level of the policy that holds."""


class Campaign(Seen):
    """Clients behave as parts of one stream."""

    kind: Literal[EventKind.CAMPAIGN] = EventKind.CAMPAIGN
    campaign: Text
    """The campaign's id."""
    members: Annotated[tuple[Text, ...], Field(max_length=MEMBERS)]
    """The clients, by their ids."""
    suspicion: Share
    """Of all of them together."""
    alarm: bool
    """Whether the campaign as a whole is alarmed."""


class Drift(Seen):
    """The traffic of all clients together is unlike the calibration's."""

    kind: Literal[EventKind.DRIFT] = EventKind.DRIFT


class KeyCreated(Subject):
    """An API key was made."""

    kind: Literal[EventKind.KEY_CREATED] = EventKind.KEY_CREATED
    key_id: Text
    """What ``keys list`` calls it."""


class KeyRevoked(Subject):
    """An API key is refused from now on."""

    kind: Literal[EventKind.KEY_REVOKED] = EventKind.KEY_REVOKED
    key_id: Text
    """What ``keys list`` calls it."""


class ConfigLoaded(Closed):
    """A gateway process started with this config."""

    kind: Literal[EventKind.CONFIG_LOADED] = EventKind.CONFIG_LOADED
    version: Text
    """Mantlet's version."""
    digest: Text
    """SHA-256 of the settings, with secrets blanked: equal settings, equal digest."""
    models: tuple[Text, ...]
    """The models of the config."""
    worker: Count
    """Which of the gateway's processes it is."""


class Dropped(Closed):
    """Events came faster than they could be written."""

    kind: Literal[EventKind.DROPPED] = EventKind.DROPPED
    count: Count
    """How many are missing before this one."""


class Repaired(Closed):
    """The log was not as it was left, and goes on from here."""

    kind: Literal[EventKind.REPAIRED] = EventKind.REPAIRED
    problem: Literal["torn_line", "behind_head", "head_lost"]
    """``torn_line``: a process died while it wrote. ``behind_head``: records are gone from the end.
    ``head_lost``: the head is gone or edited, so records may be gone."""
    set_aside: Count = 0
    """Bytes of a line without an end that were moved to the file ``.torn``."""


Event = (
    Alarm
    | LevelChange
    | Ban
    | Unban
    | Override
    | Standing
    | Campaign
    | Drift
    | KeyCreated
    | KeyRevoked
    | ConfigLoaded
    | Dropped
    | Repaired
)
ANY_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])
