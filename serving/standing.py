"""How a client stands: what its memory says of it, for the event log, the admin port and admission."""

from collections.abc import Mapping
from dataclasses import dataclass

from serving.folding import ALARMS, CAMPAIGN, HEARD, POLICY, Fold, Memory, rows_before
from serving.pipeline import Pipeline
from serving.policy import end_of_refusal, override


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one detector holds of a client; ``rows_at_alarm`` it had asked when it alarmed."""

    suspicion: float
    alarm: bool
    rows_at_alarm: int | None


@dataclass(frozen=True, slots=True)
class Standing:
    """A client at one model, after ``rows`` rows. ``suspicion`` and ``alarm`` are those that count."""

    rows: int
    suspicion: float
    alarm: bool
    level: str
    detectors: Mapping[str, Opinion]
    progress: float | None
    campaign: str | None
    denied_until: float
    override: str | None
    acknowledged: bool
    punished: bool


def suspicions_of(memory: Memory, fold: Fold) -> dict[str, float]:
    """What each signal held of the client after its last row; nothing where other detectors said it."""
    heard = memory[HEARD]["suspicion"].tolist() if HEARD in memory else []
    return dict(zip(fold.names, heard, strict=True)) if len(heard) == len(fold.names) else {}


def highest(suspicion: Mapping[str, float], fold: Fold) -> float:
    """The suspicion that counts: the largest of the signals that enforce."""
    return max((suspicion.get(name, 0.0) for name in fold.enforcing), default=0.0)


def standing_of(memory: Memory, pipeline: Pipeline) -> Standing:
    """What the memory of a client says, read as this pipeline is set now."""
    alarms, state = memory.get(ALARMS, {}), memory.get(POLICY, {})
    fold = pipeline.fold
    suspicion = suspicions_of(memory, fold)
    opinions = {
        name: Opinion(
            suspicion.get(name, 0.0),
            name in alarms,
            int(alarms[name][0]) if name in alarms else None,
        )
        for name in fold.names
    }
    level = int(state["level"][0]) if "level" in state else 0
    levels = pipeline.policy.levels
    return Standing(
        rows=rows_before(memory),
        suspicion=highest(suspicion, fold),
        alarm=any(name in alarms for name in fold.enforcing),
        level=levels[min(level, len(levels) - 1)].name,
        detectors=opinions,
        progress=next((suspicion[name] for name in fold.progress if name in suspicion), None),
        campaign=f"{int(alarms[CAMPAIGN][2]):x}" if CAMPAIGN in alarms else None,
        denied_until=end_of_refusal(memory),
        override=override(state) or None,
        acknowledged="acknowledged" in state,
        punished=level > 0 or end_of_refusal(memory) > 0,
    )
