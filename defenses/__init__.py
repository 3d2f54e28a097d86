"""Defenses transform predictions; ``BUILTIN`` lists those that come with Mantlet."""

from defenses.adaptive_misinformation import AdaptiveMisinformation
from defenses.dawn import Dawn
from defenses.gaussian_noise import GaussianNoise
from defenses.gradient_redirection import GradientRedirection
from defenses.label_only import LabelOnly
from defenses.mad import Mad
from defenses.modelguard_s import ModelGuardS
from defenses.modelguard_w import ModelGuardW
from defenses.reverse_sigmoid import ReverseSigmoid
from defenses.rounding import Rounding
from defenses.top_k import TopK
from mantlet.plugin import Defense
from mantlet.registry import discover

GROUP = "mantlet.defenses"
BUILTIN: tuple[type[Defense], ...] = (
    AdaptiveMisinformation,
    Dawn,
    GaussianNoise,
    GradientRedirection,
    LabelOnly,
    Mad,
    ModelGuardS,
    ModelGuardW,
    ReverseSigmoid,
    Rounding,
    TopK,
)


def known() -> dict[str, type[Defense]]:
    """Built-in defenses and those of the entry-point group ``mantlet.defenses``, by type."""
    return discover(BUILTIN, GROUP, Defense)  # type: ignore[type-abstract]  # only isinstance is asked
