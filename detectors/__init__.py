"""Detectors score the queries of each client; ``BUILTIN`` lists those that come with Mantlet."""

from detectors.foreign import Foreign
from detectors.rate import Rate
from detectors.sketch import Sketch
from mantlet.plugin import Detector
from mantlet.registry import discover

GROUP = "mantlet.detectors"
BUILTIN: tuple[type[Detector], ...] = (Foreign, Rate, Sketch)


def known() -> dict[str, type[Detector]]:
    """Built-in detectors and those of the entry-point group ``mantlet.detectors``, by type."""
    return discover(BUILTIN, GROUP, Detector)  # type: ignore[type-abstract]  # only isinstance is asked
