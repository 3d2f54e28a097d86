"""Which parts of a row speak for a class: gradients, and what is made of them, by captum."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from mantlet import noise
from mantlet.errors import ConfigError
from mantlet.types import Kind, Prediction

Method = Literal["gradient", "input_x_gradient", "integrated_gradients", "smooth_grad", "grad_cam"]
METHODS: tuple[Method, ...] = get_args(Method)
Of = Literal["logit", "log_probability", "probability"]
VALUES = 1 << 18
"""Numbers of rows, and of their copies, that go through the network at once: one picture of 224x224 in colour."""


class Explainer(Protocol):
    """Explains a model: ``explain`` maps (B, *shape) rows and (B,) classes to `Kind.ATTRIBUTIONS` (B, *shape).

    The first of its ``methods`` is taken where nobody names one.
    """

    @property
    def methods(self) -> tuple[str, ...]: ...
    def explain(self, inputs: Tensor, classes: Tensor, method: str) -> Prediction: ...


def require_captum() -> None:
    """Raise `ConfigError` where captum is not installed; it is imported here and then not again."""
    try:
        import captum.attr  # noqa: F401  # over a second, so not before it is needed
    except ImportError:
        raise ConfigError(
            "captum is not installed; install it with: pip install 'mantlet[explain]'"
        ) from None


@dataclass(frozen=True)
class Attribution:
    """Explains a classifier whose ``logits`` (B, C) can be differentiated after (B, *shape) rows.

    ``of`` says what is explained. ``gradient`` is its derivative after the row (Simonyan et al., 2014);
    ``input_x_gradient`` that times the row; ``integrated_gradients`` the path from ``baseline`` in ``steps``
    (Sundararajan et al., 2017); ``smooth_grad`` the mean gradient at ``samples`` copies with noise of
    deviation ``sigma`` (Smilkov et al., 2017), keyed with the ``secret``, so that nothing is won by asking
    again; ``grad_cam`` the channels of ``layer`` weighted by the gradients of the logit, whatever ``of`` says,
    enlarged to the picture and the same in all of its channels (Selvaraju et al., 2017).

    Rows and what a method makes of them go through the network in passes of `VALUES` numbers, or one row:
    memory is bounded by the size of rows, and time by how many there are.
    """

    logits: Callable[[Tensor], Tensor]
    layer: nn.Module | None = None
    of: Of = "log_probability"
    steps: int = 32
    samples: int = 16
    sigma: float = 0.15
    baseline: float = 0.0
    secret: bytes = b""
    methods: tuple[Method, ...] = METHODS

    def explain(self, inputs: Tensor, classes: Tensor, method: str) -> Prediction:
        """Maps (B, *shape) float32 of (B, *shape) rows, for (B,) classes each."""
        ways = {
            "gradient": self._gradient,
            "input_x_gradient": self._input_x_gradient,
            "integrated_gradients": self._integrated,
            "smooth_grad": self._smooth,
            "grad_cam": self._grad_cam,
        }
        count = _rows_a_pass(inputs)
        maps = [
            ways[method](rows.detach().clone().requires_grad_(), own).detach().float().cpu()
            for rows, own in zip(
                torch.split(inputs, count), torch.split(classes, count), strict=True
            )
        ]
        return Prediction(torch.cat(maps), Kind.ATTRIBUTIONS)

    def _scores(self, rows: Tensor) -> Tensor:
        """(B, C) what is explained."""
        logits = self.logits(rows)
        if self.of == "logit":
            return logits
        log = torch.log_softmax(logits, dim=1)
        return log if self.of == "log_probability" else log.exp()

    def _gradient(self, rows: Tensor, classes: Tensor) -> Tensor:
        from captum.attr import Saliency

        maps: Tensor = Saliency(self._scores).attribute(rows, target=classes, abs=False)
        return maps

    def _input_x_gradient(self, rows: Tensor, classes: Tensor) -> Tensor:
        from captum.attr import InputXGradient

        maps: Tensor = InputXGradient(self._scores).attribute(rows, target=classes)
        return maps

    def _integrated(self, rows: Tensor, classes: Tensor) -> Tensor:
        from captum.attr import IntegratedGradients

        maps: Tensor = IntegratedGradients(self._scores).attribute(
            rows,
            baselines=self.baseline,
            target=classes,
            n_steps=self.steps,
            internal_batch_size=_rows_a_pass(rows),
        )
        return maps

    def _smooth(self, rows: Tensor, classes: Tensor) -> Tensor:
        """Copy by copy of all rows; captum's own noise has no key."""
        still, total = rows.detach(), torch.zeros_like(rows)
        for copy in range(self.samples):
            seeds = noise.row_seeds(self.secret, f"smooth_grad {copy}", still)
            drawn = noise.fields(seeds, still.shape[1:]).to(still.device)
            noisy = still + self.sigma * drawn
            total = total.detach() + self._gradient(noisy.requires_grad_(), classes).detach()
        return total / self.samples

    def _grad_cam(self, rows: Tensor, classes: Tensor) -> Tensor:
        from captum.attr import LayerGradCam

        assert self.layer is not None  # or it would not be one of the methods
        coarse = LayerGradCam(self.logits, self.layer).attribute(
            rows, target=classes, relu_attributions=True
        )  # (B, 1, h, w)
        maps = nn.functional.interpolate(coarse, rows.shape[2:], mode="bilinear")
        return maps.expand_as(rows)


def _rows_a_pass(rows: Tensor) -> int:
    return max(1, VALUES // rows[0].numel())


def last_convolution(network: nn.Module) -> nn.Module | None:
    """Where Grad-CAM looks: the last convolution in order of registration, or the rectifier just behind it.

    None without any convolution.
    """
    modules = [module for module in network.modules() if not isinstance(module, nn.BatchNorm2d)]
    places = [i for i, module in enumerate(modules) if isinstance(module, nn.Conv2d)]
    if not places:
        return None
    behind = modules[places[-1] + 1 : places[-1] + 2]
    return behind[0] if behind and isinstance(behind[0], nn.ReLU) else modules[places[-1]]
