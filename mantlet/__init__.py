"""Mantlet: a gateway that makes a served model expensive, visible and provable to steal.

What a plug-in needs is here; everything else is imported from its own module.
"""

from importlib.metadata import version as _version

from mantlet.errors import MantletError
from mantlet.plugin import (
    Calibration,
    Defense,
    EvidenceDetector,
    InputDefense,
    Plugin,
    Setup,
    ThresholdDetector,
)
from mantlet.types import InputSpec, Kind, Prediction, Query, Released, Signal, State, Task, Victim

__version__ = _version("mantlet")

__all__ = [
    "Calibration",
    "Defense",
    "EvidenceDetector",
    "InputDefense",
    "InputSpec",
    "Kind",
    "MantletError",
    "Plugin",
    "Prediction",
    "Query",
    "Released",
    "Setup",
    "Signal",
    "State",
    "Task",
    "ThresholdDetector",
    "Victim",
]
