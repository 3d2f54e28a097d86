"""Victims: the protected models, by config; ``BUILTIN`` lists the kinds."""

from mantlet.registry import discover
from serving.victims.base import VictimPlugin
from serving.victims.onnx import OnnxVictim
from serving.victims.torch import TorchVictim
from serving.victims.upstream import UpstreamVictim

GROUP = "mantlet.victims"
BUILTIN: tuple[type[VictimPlugin], ...] = (OnnxVictim, TorchVictim, UpstreamVictim)


def known() -> dict[str, type[VictimPlugin]]:
    """Built-in victims and those of the entry-point group ``mantlet.victims``, by type."""
    return discover(BUILTIN, GROUP, VictimPlugin)  # type: ignore[type-abstract]  # only isinstance is asked
