"""The bound on false alarms by simulation: honest clients whose scores are as bad as is tolerated."""

import numpy as np

from detectors.evidence import Evidence
from redteam.judging import Record, upper_bound

ABOUT = {
    "victim": "simulated",
    "detector": "all",
    "attack": "none",
    "seed": 0,
    "condition": "scores at the tolerated mean",
}
"""Of every record."""
BATCH = 1_000
"""Clients that are simulated side by side."""
ROWS = 25
"""Rows of each that are folded at once."""


def ever_alarmed(
    evidence: Evidence,
    tolerated: np.ndarray,
    alphas: tuple[float, ...],
    *,
    clients: int,
    rows: int,
    rng: np.random.Generator,
) -> list[Record]:
    """How many clients are ever alarmed whose scores are 1 with probability ``tolerated`` (F,), else 0.

    This is the edge of what the test allows: by Ville's inequality at most a share ``alpha`` is ever
    alarmed, for each of ``alphas``, none below that of ``evidence``.

    >>> test, rng = Evidence(widths=(1,), alpha=1e-4), np.random.default_rng(0)
    >>> record, = ever_alarmed(test, np.array([0.1]), (0.01,), clients=500, rows=200, rng=rng)
    >>> record["streams"], record["detected"] <= 10
    (500, True)
    """
    highest = [
        _highest(evidence, tolerated, min(BATCH, clients - start), rows, rng)
        for start in range(0, clients, BATCH)
    ]
    reached = np.concatenate(highest)  # (clients,) largest suspicion of a lifetime
    records = []
    for alpha in alphas:
        alarmed = int((reached >= np.log(alpha) / np.log(evidence.alpha)).sum())
        records.append(
            ABOUT
            | {
                "alpha": alpha,
                "streams": clients,
                "rows": rows,
                "detected": alarmed,
                "ever_alarm_upper": upper_bound(alarmed, clients),
                "rows_to_alarm_median": None,
                "rows_to_alarm_p90": None,
            }
        )
    return records


def _highest(
    evidence: Evidence, tolerated: np.ndarray, clients: int, rows: int, rng: np.random.Generator
) -> np.ndarray:
    """(clients,) the largest joint suspicion that each reached."""
    wealth = np.repeat(evidence.initial()[None], clients, axis=0)
    highest = np.zeros(clients)
    for start in range(0, rows, ROWS):
        count = min(ROWS, rows - start)
        # row by row, so that the rows of a client lie `clients` apart
        scores = (rng.random((count * clients, len(tolerated))) < tolerated).astype(float)
        rows_of = [range(client, count * clients, clients) for client in range(clients)]
        seen = np.full(clients, start)
        wealth, trail = evidence.fold(wealth, seen, rows_of, scores, tolerated)
        joint = evidence.suspicion(trail)[:, 0].reshape(count, clients)
        highest = np.maximum(highest, joint.max(axis=0))
    return highest
