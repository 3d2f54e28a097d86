"""Every error Mantlet raises on purpose, in one tree.

MantletError
├── ConfigError          a setting, a file or a command line is wrong; the operator mends it
├── WeightsError         a weight file is unsafe, damaged or of another architecture
├── CalibrationError     calibration data or a calibration file does not fit
├── PluginError          a plug-in broke its promise; the pipeline releases nothing
├── VictimError          the protected model failed or answered nonsense
│   └── VictimTimeout    ... or took too long
├── TargetError          a gateway under attack is down, or answers what an attack cannot use
├── StoreError           the memory of clients cannot be read or written
│   └── StoreAway        ... because the store cannot be reached, or takes nothing now
└── RequestError         the client's request is refused; carries the HTTP status
"""

from collections.abc import Mapping


class MantletError(Exception):
    """Base of all errors raised on purpose; its text names the thing, the value and the remedy."""


class ConfigError(MantletError):
    """A setting, a file or a command line is wrong."""


class WeightsError(MantletError):
    """A weight file is unsafe, damaged or of another architecture."""


class CalibrationError(MantletError):
    """Calibration data or a calibration file does not fit the victim or the detector."""


class PluginError(MantletError):
    """A defense or a detector raised, or broke its promise."""


class VictimError(MantletError):
    """The protected model failed or answered nonsense."""


class VictimTimeout(VictimError):
    """The protected model took longer than its deadline."""


class TargetError(MantletError):
    """A gateway under attack is down, or answers what an attack cannot use."""


class StoreError(MantletError):
    """The memory of clients cannot be read or written."""


class StoreAway(StoreError):
    """The store cannot be reached, or takes nothing now; what it holds is not to blame."""


class RequestError(MantletError):
    """A client's request is refused: ``status`` is the HTTP status, ``reason`` labels the metric."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        reason: str = "bad_request",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.headers = dict(headers or {})
