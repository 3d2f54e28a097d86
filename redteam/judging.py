"""From what the pipeline said of a crowd to the bench's records."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import orjson
from scipy.special import betaincinv

from redteam.detection.folding import Trace

Record = dict[str, Any]
POINTS = 60
"""Points of a picture's curve."""


def lines(records: Iterable[Record]) -> bytes:
    """A JSON list with a record a line."""
    return b"[\n" + b",\n".join(map(orjson.dumps, records)) + b"\n]\n"


def floor(wanted: str, measured: str, *, met: bool) -> Record:
    """What was wanted and what was measured, in words, and whether it is missed."""
    return {"wanted": wanted, "measured": measured, "missed": not met}


def judged(about: Record, detector: str, said: Trace, start: int) -> Record:
    """How many of a crowd a detector alarmed, and after how many rows of the attack.

    Medians are over all clients; one that was never alarmed took forever, which is ``None``. Clients
    that were alarmed before the attack started are no detections: ``alarmed_before`` counts them.
    ``ever_alarm_upper`` is the upper 95 % bound of the share alarmed (Clopper and Pearson, 1934).

    >>> said = Trace({"all": np.array([[False, True], [False, False]])}, np.zeros((2, 2)), {})
    >>> record = judged({}, "all", said, 0)
    >>> record["detected"], record["rows_to_alarm_median"], round(record["ever_alarm_upper"], 2)
    (1, None, 0.97)
    """
    first = said.first(detector)
    clients, length = said.alarms[detector].shape
    after = np.where(first > start, first - start, np.inf)
    detected = int(np.isfinite(after).sum())
    return about | {
        "detector": detector,
        "streams": clients,
        "rows": length,
        "detected": detected,
        "alarmed_before": int(((first > 0) & (first <= start)).sum()),
        "rows_to_alarm_median": _rows(after, 0.5),
        "rows_to_alarm_p90": _rows(after, 0.9),
        "ever_alarm_upper": upper_bound(detected, clients),
    }


def linked(about: Record, found: Sequence[Collection[str]], members: Collection[str]) -> Record:
    """How well the campaigns that were found name the accounts of one thief, if there is one.

    ``precision`` is the share of thieves among those who are named, ``recall`` that of the named among
    the thieves; without any it is ``None``.
    """
    named = set().union(*found)
    right = len(named & set(members))
    return about | {
        "detector": "campaign",
        "streams": 1,
        "detected": int(bool(found)),
        "groups": len(found),
        "precision": right / len(named) if named else None,
        "recall": right / len(members) if members else None,
        "rows_to_alarm_median": None,
        "rows_to_alarm_p90": None,
    }


def curve(about: Record, said: Trace) -> Record:
    """The joint suspicion of the first clients of a crowd, at some rows, for a picture."""
    length = said.suspicion.shape[1]
    at = np.unique(np.geomspace(1, length, POINTS).astype(int)) - 1
    shown = said.suspicion[:3, at].astype(float).round(3)
    return about | {"rows": (at + 1).tolist(), "suspicion": shown.tolist()}


def upper_bound(alarmed: int, clients: int) -> float:
    """Upper 95 % bound of a share."""
    if alarmed == clients:
        return 1.0
    return float(betaincinv(alarmed + 1, clients - alarmed, 0.95))


def _rows(after: np.ndarray, quantile: float) -> float | None:
    """The quantile from above, so that it is a number of rows that some client needed."""
    rows = float(np.quantile(after, quantile, method="higher"))
    return rows if np.isfinite(rows) else None
