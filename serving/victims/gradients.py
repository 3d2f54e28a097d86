"""From a network on this machine to what explains it, tried once before anybody asks."""

import copy

import torch
from torch import Tensor, nn

from mantlet.attribution import (
    METHODS,
    Attribution,
    Explainer,
    Method,
    last_convolution,
    require_captum,
)
from mantlet.errors import ConfigError
from mantlet.finite import all_finite
from serving.explaining import Explain
from serving.victims.base import VictimPlugin, first_line


def explainer(
    network: nn.Module,
    victim: VictimPlugin,
    settings: Explain,
    *,
    secret: bytes,
    device: torch.device,
) -> Explainer:
    """Explains ``network``, which gives the logits of a loaded ``victim`` of its normalised rows.

    Raises `ConfigError` for networks without gradients, such as those of integers, and where Grad-CAM is
    asked for by name and there is no convolution.
    """
    require_captum()
    twin = _twin(network)
    layer = _layer(twin, victim, settings)

    def logits(rows: Tensor) -> Tensor:
        answers: Tensor = twin(victim.normalized(rows).to(device)).float()
        return answers.cpu()

    explains = Attribution(
        logits,
        layer,
        of=settings.of,
        steps=settings.steps,
        samples=settings.samples,
        sigma=settings.sigma,
        baseline=victim.low or 0.0,
        secret=secret,
        methods=_methods(layer, victim, settings),
    )
    _try_it(explains, victim)
    return explains


def _twin(network: nn.Module) -> nn.Module:
    """The same tensors in modules of their own: hooks that one thread sets are not met by another's rows."""
    shared = {id(t): t for t in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, shared).eval()


def _layer(twin: nn.Module, victim: VictimPlugin, settings: Explain) -> nn.Module | None:
    if len(victim.input.shape) != 3:
        return None
    if not settings.layer:
        return last_convolution(twin)
    try:
        return twin.get_submodule(settings.layer)
    except AttributeError:
        known = [name for name, module in twin.named_modules() if isinstance(module, nn.Conv2d)]
        raise ConfigError(
            f"victim '{victim.name}': the network has no layer '{settings.layer}'; its convolutions are"
            f" {', '.join(known) or 'none'}"
        ) from None


def _methods(
    layer: nn.Module | None, victim: VictimPlugin, settings: Explain
) -> tuple[Method, ...]:
    """Without a convolution all but Grad-CAM, unless that was asked for."""
    if layer is not None:
        return settings.methods
    if "methods" not in settings.model_fields_set:
        return tuple(method for method in METHODS if method != "grad_cam")
    if "grad_cam" in settings.methods:
        raise ConfigError(
            f"victim '{victim.name}': grad_cam needs a convolution, and this network has none; remove it"
            " from 'methods'"
        )
    return settings.methods


def _try_it(explains: Attribution, victim: VictimPlugin) -> None:
    """Every method on random rows; raises `ConfigError` where the first finds no gradient."""
    rows = victim.probe(2)
    classes = torch.zeros(2, dtype=torch.int64)
    for method in explains.methods:
        try:
            maps = explains.explain(rows, classes, method).values
        except Exception as error:  # a network without gradients fails in its own way
            raise ConfigError(
                f"victim '{victim.name}' cannot be explained by {method}: {first_line(error)}; models of"
                " integers have no gradients: remove 'explain', or the method from 'methods'"
            ) from error
        if maps.shape != rows.shape or not all_finite(maps):
            raise ConfigError(
                f"victim '{victim.name}': {method} gives maps of {tuple(maps.shape)}, or values that are"
                f" not finite, of rows of {tuple(rows.shape)}; remove it from 'methods'"
            )
        if method == "gradient" and not bool(maps.abs().amax() > 0):
            raise ConfigError(
                f"victim '{victim.name}' has no gradients: they are zero everywhere, as of models of"
                " integers; remove 'explain'"
            )
