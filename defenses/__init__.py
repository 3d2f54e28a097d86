"""Defenses transform predictions; ``BUILTIN`` lists those that come with Mantlet."""

from defenses.adaptive_misinformation import AdaptiveMisinformation
from defenses.adversarial_noise import AdversarialNoise
from defenses.band_limit import BandLimit
from defenses.blur import Blur
from defenses.dawn import Dawn
from defenses.explanation_decoy import ExplanationDecoy
from defenses.explanation_display import ExplanationDisplay
from defenses.explanation_mark import ExplanationMark
from defenses.explanation_smooth import ExplanationSmooth
from defenses.explanation_top_k import ExplanationTopK
from defenses.gaussian_noise import GaussianNoise
from defenses.gradient_redirection import GradientRedirection
from defenses.high_band_dither import HighBandDither
from defenses.jpeg import Jpeg
from defenses.label_only import LabelOnly
from defenses.latent_budget import LatentBudget
from defenses.linear_interpolation import LinearInterpolation
from defenses.mad import Mad
from defenses.modelguard_s import ModelGuardS
from defenses.modelguard_w import ModelGuardW
from defenses.reverse_sigmoid import ReverseSigmoid
from defenses.rounding import Rounding
from defenses.semantic_interpolation import SemanticInterpolation
from defenses.top_k import TopK
from defenses.watermark.defense import Watermark
from defenses.watermark.learned_defense import LearnedWatermark
from mantlet.plugin import Defense, InputDefense
from mantlet.registry import discover

GROUP = "mantlet.defenses"
BUILTIN: tuple[type[Defense], ...] = (
    AdaptiveMisinformation,
    AdversarialNoise,
    BandLimit,
    Blur,
    Dawn,
    ExplanationDecoy,
    ExplanationDisplay,
    ExplanationMark,
    ExplanationSmooth,
    ExplanationTopK,
    GaussianNoise,
    GradientRedirection,
    Jpeg,
    HighBandDither,
    LabelOnly,
    LearnedWatermark,
    Mad,
    ModelGuardS,
    ModelGuardW,
    ReverseSigmoid,
    Rounding,
    TopK,
    Watermark,
)

INPUT_GROUP = "mantlet.input_defenses"
INPUTS: tuple[type[InputDefense], ...] = (
    LatentBudget,
    LinearInterpolation,
    SemanticInterpolation,
)


def known() -> dict[str, type[Defense]]:
    """Built-in defenses and those of the entry-point group ``mantlet.defenses``, by type."""
    return discover(BUILTIN, GROUP, Defense)  # type: ignore[type-abstract]  # only isinstance is asked


def known_inputs() -> dict[str, type[InputDefense]]:
    """Built-in input defenses and those of the entry-point group ``mantlet.input_defenses``, by type."""
    return discover(INPUTS, INPUT_GROUP, InputDefense)  # type: ignore[type-abstract]  # as above
