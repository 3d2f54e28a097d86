"""A dry run: how a policy would have treated the clients that an event log tells of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import torch
import yaml
from pydantic import TypeAdapter, ValidationError

from mantlet.errors import ConfigError
from mantlet.registry import did_you_mean
from mantlet.types import Query
from serving.admission import placed
from serving.budget import sized
from serving.events.chain import Chain
from serving.events.jsonl import JsonlFile
from serving.events.kinds import ANY_EVENT, Ban, Judged, Unban
from serving.events.sqlite import SqliteFile
from serving.folding import CAMPAIGN, Folded, Memory
from serving.policy import ALLOWED, Decision, Level, Policy, check_levels, end_of_refusal
from serving.settings import load
from serving.signals import Signals

COUNTS = "(all that enforce)"
SQLITE = b"SQLite format 3\0"
EVERYBODY = (Level(name="all"),)
"""A policy without levels: all are treated alike."""
LEVELS: TypeAdapter[tuple[Level, ...]] = TypeAdapter(tuple[Level, ...])


@dataclass(slots=True)
class Treated:
    """One client at one model: the levels that it went through, and those of the other policy."""

    client: str
    name: str
    tier: str
    model: str
    rows: int = 0
    was: list[str] = field(default_factory=list)
    would: list[str] = field(default_factory=list)
    was_denied_until: float | None = None
    would_deny_until: float | None = None

    @property
    def differs(self) -> bool:
        """Whether it would have been treated otherwise."""
        refused = self.was_denied_until is not None, self.would_deny_until is not None
        return self.was != self.would or refused[0] != refused[1]


@dataclass(frozen=True, slots=True)
class Other:
    """The other policy of a model, and whom its config allows; none where only the log tells that."""

    policy: Policy
    allow: frozenset[str] | None

    def allows(self, event: Judged) -> bool:
        """Whether the client is watched only."""
        if self.allow is None:
            return event.allowed
        return event.name in self.allow or event.client in self.allow


def policy_of(path: Path, model: str) -> Other:
    """The policy of a gateway's config, or of a file that holds ``policy:`` alone; `ConfigError`."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"policy '{path}' cannot be read: {error}") from error
    if isinstance(raw, dict) and "models" in raw:
        settings = load(path)
        if model not in settings.models:
            raise ConfigError(f"policy '{path}' has no model '{model}', of which the events tell")
        levels = tuple(sized(settings.models[model])) or EVERYBODY
        return Other(Policy(levels), placed(settings.identity.allow))
    if not isinstance(raw, dict) or raw.keys() != {"policy"}:
        raise ConfigError(
            f"policy '{path}': give a gateway's config, or a file with 'policy:' alone"
        )
    return Other(Policy(_levels(path, raw["policy"])), None)


def _levels(path: Path, raw: object) -> Sequence[Level]:
    """The levels of a file that holds nothing else."""
    try:
        levels = LEVELS.validate_python(raw)
        defenses = {name for level in levels for name in level.defenses}
        check_levels(levels, sorted(defenses), sorted({n for lv in levels for n in lv.signals}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"policy '{path}': {field}: {first['msg']}") from error
    except ValueError as error:
        raise ConfigError(f"policy '{path}': {error}") from error
    unsized = next((level.name for level in levels if level.agreement is not None), None)
    if unsized is not None:
        raise ConfigError(
            f"policy '{path}': level '{unsized}' has an agreement, which the curve of a detector turns into"
            " rows; give the whole config, or 'rows' from: mantlet budget CONFIG"
        )
    return levels or EVERYBODY


def replay(events: Path, policy: Path) -> list[Treated]:
    """How the clients of a log would have been treated, those of the highest levels first.

    The log tells a client's suspicion in steps, so a level is reached here at the step that follows the
    row that reached it. Raises `ConfigError` for a log or a policy that cannot be read.
    """
    policies: dict[str, Other] = {}
    treated: dict[tuple[str, str], Treated] = {}
    memories: dict[tuple[str, str], Memory] = {}
    heard: dict[str, set[str]] = {}
    for at, event in _judgements(events):
        if isinstance(event, Unban):
            for known in [key for key in memories if key[0] == event.client]:
                if event.model in (None, known[1]):
                    del memories[known]
            continue
        if event.model not in policies:
            policies[event.model] = policy_of(policy, event.model)
        key = event.client, event.model
        one = treated.setdefault(key, Treated(event.client, event.name, event.tier, event.model))
        one.rows = max(one.rows, event.rows)
        heard.setdefault(event.model, set()).update(event.detectors)
        decision = _decide(policies[event.model], event, at, memories.get(key, {}))
        memories[key] = decision.memories[event.client]
        _note(one.would, policies[event.model].policy.levels[decision.levels[0]].name)
        if decision.denied[0]:
            one.would_deny_until = end_of_refusal(memories[key])
        _note_was(one, event)
    for model, detectors in heard.items():
        if policies[model].allow is None:  # the detectors of a config are known to be there
            _require_heard(policy, policies[model].policy.levels, model, sorted(detectors))

    def height(one: Treated) -> tuple[int, int]:
        levels = policies[one.model].policy
        return max(levels.index(name) or 0 for name in one.would), one.rows

    return sorted(treated.values(), key=height, reverse=True)


def _require_heard(
    path: Path, levels: Sequence[Level], model: str, detectors: Sequence[str]
) -> None:
    """Raise `ConfigError` for a level that listens to a detector of which the log does not tell."""
    for level in levels:
        for name in level.signals:
            if name not in detectors:
                hint = did_you_mean(name, detectors) if detectors else "they tell of none"
                raise ConfigError(
                    f"policy '{path}': level '{level.name}' listens to detector '{name}', of which the events of"
                    f" model '{model}' do not tell; {hint}"
                )


def _note_was(one: Treated, event: Judged) -> None:
    """What the gateway did to a client; in shadow mode nothing, whatever it decided."""
    if isinstance(event, Ban) and not event.shadow:
        one.was_denied_until = event.until
    told = getattr(event, "after", None) or getattr(event, "level", None)
    if event.shadow:
        told = "(as at first)"
    if told is not None:
        _note(one.was, told)


def _note(levels: list[str], name: str) -> None:
    if levels[-1:] != [name]:
        levels.append(name)


def _decide(other: Other, event: Judged, at: float, memory: Memory) -> Decision:
    """What the policy does with a row of the client as the event shows it."""
    said = {name: ([o.suspicion], [o.alarm]) for name, o in event.detectors.items()}
    # what counts is at suspicion 1 exactly when it has alarmed
    said[COUNTS] = [event.suspicion], [event.suspicion >= 1]
    if event.campaign is not None:
        said[CAMPAIGN] = [1.0], [True]
    for level in other.policy.levels:
        for name in level.signals:
            said.setdefault(name, ([0.0], [False]))
    row, memories = {event.client: [0]}, {event.client: dict(memory)}
    folded = Folded(row, np.array([event.rows]), Signals.told(said), memories)
    tier = ALLOWED if other.allows(event) else event.tier
    query = Query([event.client], torch.zeros(1), at, [tier])
    return other.policy.decide(query, folded, [COUNTS])


def _judgements(path: Path) -> Iterator[tuple[float, Judged | Unban]]:
    """The events of a log that tell how a client stood, or stands no more, with their times."""
    unsealed = Chain(b"")  # who replays need not have the gateway's secret
    lines = JsonlFile(path, unsealed)
    if not lines.begun():
        raise ConfigError(f"events '{path}': no such file; give the log that the gateway wrote")
    sqlite = False
    if path.is_file():  # else all of it was put away
        with path.open("rb") as file:
            sqlite = file.read(len(SQLITE)) == SQLITE
    journal = SqliteFile(path, unsealed) if sqlite else lines
    for number, line in enumerate(journal.lines(0), 1):
        try:
            told = orjson.loads(line)
            event = ANY_EVENT.validate_python({"kind": told["kind"], **told["fields"]})
            at = float(told["at"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"events '{path}': record {number} cannot be read; run: mantlet events verify CONFIG"
            ) from error
        if isinstance(event, (Judged, Unban)):
            yield at, event
