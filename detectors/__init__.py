"""Detectors score the queries of each client; ``BUILTIN`` lists those that come with Mantlet."""

from detectors.coverage import Coverage
from detectors.crops import Crops
from detectors.distances import Distances
from detectors.foreign import Foreign
from detectors.latents import Latents
from detectors.prada import Prada
from detectors.rate import Rate
from detectors.shift import Shift
from detectors.similarity import Similarity
from detectors.sketch import Sketch
from mantlet.plugin import Detector
from mantlet.registry import discover

GROUP = "mantlet.detectors"
BUILTIN: tuple[type[Detector], ...] = (
    Coverage,
    Crops,
    Distances,
    Foreign,
    Latents,
    Prada,
    Rate,
    Shift,
    Similarity,
    Sketch,
)


def known() -> dict[str, type[Detector]]:
    """Built-in detectors and those of the entry-point group ``mantlet.detectors``, by type."""
    return discover(BUILTIN, GROUP, Detector)  # type: ignore[type-abstract]  # only isinstance is asked
