"""Budgets sized by measurement: how many rows a client may have before a thief's clone gets too good."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detectors.coverage import Coverage
from mantlet.errors import ConfigError
from serving.policy import Level
from serving.settings import Model

AGREEMENTS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""What ``mantlet budget`` tells of."""
SPREAD = 0.05
"""Clones of as many rows differ by their rows, and longer training gains: a budget is for that much less."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Agreement of the best clone, whatever pool it asked about, after so many rows; both rise."""

    path: Path
    rows: np.ndarray
    agreement: np.ndarray

    @property
    def least(self) -> float:
        """The agreement that no budget can be sized for."""
        return float(self.agreement[0]) + SPREAD

    def rows_for(self, agreement: float) -> int:
        """The most rows with which measured clones agree `SPREAD` less often, between two points in log rows.

        Raises `ConfigError` where the least measured number of rows gives as much already. An agreement
        that no clone reached gives the most rows that were measured: nothing is known beyond them.
        """
        if agreement <= self.least:
            raise ConfigError(
                f"curve '{self.path}': {self.rows[0]:.0f} rows may already give an agreement of"
                f" {self.least:.3f}, and {agreement:g} was asked for; choose more, or measure fewer rows"
            )
        rows = np.exp(np.interp(agreement - SPREAD, self.agreement, np.log(self.rows)))
        return int(rows + 1e-6)  # a measured point is itself


def read_curve(path: Path) -> Curve:
    """The curve that ``python -m redteam.detection.curve`` wrote; raises `ConfigError`."""
    try:
        pools = json.loads(path.read_text(encoding="utf-8"))["pools"]
        rows = np.asarray(pools[0]["rows"], np.float64)
        if any(pool["rows"] != pools[0]["rows"] for pool in pools):
            raise ValueError("its pools were measured with other numbers of rows")
        best = np.max([pool["agreement"] for pool in pools], axis=0)
        if rows.shape != best.shape or len(rows) < 2 or rows.min() < 1:
            raise ValueError("rows and agreement must be lists of one length")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"curve '{path}' cannot be read ({error!r}); run: python -m redteam.detection.curve CONFIG"
        ) from error
    return Curve(path, rows, np.maximum.accumulate(best))


def curve_of(model: Model) -> Curve:
    """The curve of a model's coverage detector; raises `ConfigError` where there is none."""
    paths = (d.curve for d in model.detectors if isinstance(d, Coverage) and d.curve is not None)
    path = next(paths, None)
    if path is None:
        raise ConfigError(
            "no detector of type coverage has a curve, by which a budget could be sized; measure one"
            " with: python -m redteam.detection.curve CONFIG"
        )
    return read_curve(path)


def table(curve: Curve) -> Mapping[float, int | None]:
    """Rows by the agreement that they stay under; none where the least measured number gives more."""
    return {share: curve.rows_for(share) if share > curve.least else None for share in AGREEMENTS}


def sized(model: Model) -> Sequence[Level]:
    """The model's levels, with ``rows`` in place of ``agreement``."""
    if all(level.agreement is None for level in model.policy):
        return model.policy
    curve = curve_of(model)
    return [
        level
        if level.agreement is None
        else level.model_copy(update={"rows": curve.rows_for(level.agreement), "agreement": None})
        for level in model.policy
    ]
