"""What is told of a batch: alarms, changes of level and refusals go to the event log, the log and the metrics."""

from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from prometheus_client import Counter

from serving.admission import Client
from serving.events.kinds import Alarm, Ban, Event, LevelChange
from serving.events.kinds import Opinion as Told
from serving.events.kinds import Standing as Stood
from serving.events.log import EventLog
from serving.folding import ALARMS, CAMPAIGN, HISTORY, POLICY, Memory
from serving.pipeline import Pipeline
from serving.policy import ALLOWED
from serving.standing import Standing, standing_of

log = structlog.get_logger(__name__)
TELLING = (ALARMS, POLICY, HISTORY)
"""The parts of a memory whose change is told; a part that did not change is the same object."""


class Reporter:
    """Tells what changed between two memories of a client, once: when the second has been stored."""

    def __init__(
        self, model: str, pipeline: Pipeline, events: EventLog, alarms: Mapping[str, Counter]
    ) -> None:
        self._model, self._pipeline, self._events, self._alarms = model, pipeline, events, alarms

    def note(self, client: Client, before: Memory, after: Memory, at: float) -> Standing | None:
        """Tell what changed; returns how the client stands now when something did."""
        if all(before.get(part) is after.get(part) for part in TELLING):
            return None
        was, now = standing_of(before, self._pipeline), standing_of(after, self._pipeline)
        new = sorted(after.get(ALARMS, {}).keys() - before.get(ALARMS, {}).keys() - {CAMPAIGN})
        moved = before.get(HISTORY) is not after.get(HISTORY)
        for event in self._events_of(self._judged(client, now), was, now, new, moved, at):
            self._events.record(event)
        for name in new:
            self._alarms[name].inc()
            log.warning("alarm", model=self._model, client=client.id, detector=name)
        return now

    @staticmethod
    def _events_of(
        about: Mapping[str, Any],
        was: Standing,
        now: Standing,
        new: list[str],
        moved: bool,
        at: float,
    ) -> Iterator[Event]:
        """``about`` are the fields that all have; ``moved`` that the suspicion is another step."""
        if new:
            yield Alarm(**about, raised_by=tuple(new))
        if was.level != now.level:
            yield LevelChange(**about, before=was.level, after=now.level)
        if was.denied_until <= at < now.denied_until:
            yield Ban(**about, until=now.denied_until, level=now.level)
        if moved:
            yield Stood(**about, step=now.suspicion, level=now.level)

    def _judged(self, client: Client, now: Standing) -> dict[str, object]:
        """The fields that all of these events have."""
        return {
            "client": client.id,
            "name": client.name,
            "tier": client.tier,
            "model": self._model,
            "weights": self._pipeline.victim.fingerprint,
            "rows": now.rows,
            "detectors": {
                name: Told(suspicion=o.suspicion, alarm=o.alarm, rows_at_alarm=o.rows_at_alarm)
                for name, o in now.detectors.items()
            },
            "suspicion": now.suspicion,
            "campaign": now.campaign,
            "progress": now.progress,
            "shadow": self._pipeline.policy.shadow or client.judged_as == ALLOWED,
            "allowed": client.judged_as == ALLOWED,
        }
