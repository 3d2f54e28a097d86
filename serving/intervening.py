"""What an operator may decide about a client."""

import numpy as np
from pydantic import BaseModel, ConfigDict

from mantlet.errors import ConfigError, RequestError
from serving import oversight
from serving.admission import Client
from serving.events.kinds import Override, Unban
from serving.folding import ANSWERED, EVIDENCE, HISTORY, POLICY, Memory, rows_before
from serving.gateway import Gateway
from serving.policy import end_of_refusal, override
from serving.service import Service
from serving.settings import require_tier

BY = "admin port"


class Change(BaseModel):
    """What an operator decides about a client; what is not given stays as it is.

    ``unban`` says that the client is honest: refusal, alarms, evidence and a level set by hand are gone, the
    count of its rows stays. ``acknowledge`` notes that somebody has looked. ``level`` names the level of the policy at
    which it is treated whatever the detectors say; ``null`` takes that back; either ends a refusal,
    and the level decides anew. ``tier`` is given to all of the client's keys.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    """At which model; at all of them where it is not given."""
    unban: bool = False
    acknowledge: bool = False
    level: str | None = None
    tier: str | None = None


def change(service: Service, client_id: str, wanted: Change) -> oversight.Fields:
    """Do what an operator decided and record it; returns how the client stands then."""
    if not wanted.model_fields_set - {"model"}:
        raise RequestError(400, "nothing to change; give unban, acknowledge, level or tier")
    who = service.admission.known().get(client_id)
    asked = [g for g in oversight.gateways(service, wanted.model) if g.memory_of(client_id)]
    if not asked and who is None:
        raise oversight.unknown(client_id)
    who = who or Client(client_id, "", "default")
    changed = asked if wanted.level is None else _with_level(service, wanted, asked)
    if wanted.tier is not None:
        _set_tier(service, who, wanted.tier)
    for gateway in changed:
        _change_at(service, gateway, who, wanted)
    return oversight.client(service, client_id) if changed else {"client": client_id, "models": []}


def _with_level(service: Service, wanted: Change, asked: list[Gateway]) -> list[Gateway]:
    """The models at which a level is set: those that the client ``asked``, and all others that have it.

    Else it would meet a client only where it came before, and let it in where it comes next.
    """
    others = [g for g in oversight.gateways(service, wanted.model) if g not in asked]
    having = [g for g in others if g.pipeline.policy.index(wanted.level or "") is not None]
    for gateway in asked or ([] if having else others):
        _require_level(gateway, wanted.level)
    return [*asked, *having]


def _require_level(gateway: Gateway, name: str | None) -> None:
    policy = gateway.pipeline.policy
    if name is not None and policy.index(name) is None:
        known = ", ".join(level.name for level in policy.levels)
        raise RequestError(
            400, f"model '{gateway.name}' has no level '{name[:80]}'; known: {known}"
        )


def _set_tier(service: Service, who: Client, tier: str) -> None:
    try:
        require_tier(service.settings, tier)
    except ConfigError as error:
        raise RequestError(400, str(error)) from error
    if not service.admission.set_tier(who, tier):
        raise RequestError(
            409, f"client '{who.id}' has no key, and so no tier of its own; create a key for it"
        )
    service.events.record(
        Override(
            client=who.id,
            name=who.name,
            tier=tier,
            setting="tier",
            before=who.tier,
            after=tier,
            by=BY,
        )
    )


def _change_at(service: Service, gateway: Gateway, who: Client, wanted: Change) -> None:
    """Change what one model remembers of a client, and record it."""
    who_and_where = {"client": who.id, "name": who.name, "tier": who.tier, "model": gateway.name}
    subject = {**who_and_where, "by": BY}
    if wanted.unban:
        gateway.amend(who.id, _forgiven)
        service.events.record(Unban(**subject))
    if wanted.acknowledge:
        at = np.array([service.clock()])
        gateway.amend(who.id, lambda memory: _with_policy(memory, "acknowledged", at))
        done = Override(**subject, setting="acknowledge", before=None, after="yes")
        service.events.record(done)
    if "level" in wanted.model_fields_set:
        name = np.frombuffer(wanted.level.encode(), np.uint8) if wanted.level else None
        before = gateway.amend(who.id, lambda memory: _at_level(memory, name))
        was = override(before.get(POLICY, {})) or None
        if end_of_refusal(before) > service.clock():
            service.events.record(Unban(**subject))
        done = Override(**subject, setting="level", before=was, after=wanted.level)
        service.events.record(done)


def _forgiven(memory: Memory) -> Memory:
    """Without alarms, evidence, refusal, decisions and what detectors remember; the count of rows stays."""
    # the answers of a defense stay: others to the same query would tell more
    kept = {n: state for n, state in memory.items() if n == HISTORY or n.startswith(ANSWERED)}
    rows = np.array([rows_before(memory), 0], dtype=np.int64)
    return {**kept, EVIDENCE: {"wealth": np.zeros((0, 0)), "rows": rows}}


def _at_level(memory: Memory, name: np.ndarray | None) -> Memory:
    """With a level set by hand, or none, and without the refusal that another level began."""
    return _with_policy(_with_policy(memory, "denied_until", None), "override", name)


def _with_policy(memory: Memory, field: str, value: np.ndarray | None) -> Memory:
    """With a field of what the policy remembers; without it where there is no value."""
    state = {name: array for name, array in memory.get(POLICY, {}).items() if name != field}
    return {**memory, POLICY: state if value is None else {**state, field: value}}
