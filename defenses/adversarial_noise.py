"""Small keyed adversarial perturbations of pictures (Hu and Pang, 2021)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn

from mantlet import architectures, noise
from mantlet.errors import WeightsError
from mantlet.plugin import Defense, Setup
from mantlet.types import Kind, Prediction, Query, Signal

SOFT = 0.02
"""Gradients below this share of a picture's largest are less than a whole step."""


class AdversarialNoise(Defense):
    """Moves every picture by at most ``epsilon`` a pixel towards a random class of a public ``classifier``.

    ``x <- clip(x - (epsilon / steps) sign(grad_x CE(f(x), t)))``, ``steps`` times, with the class t drawn by a
    keyed hash of the row: Hu and Pang, ACSAC 2021; Kurakin, Goodfellow and Bengio, 2017. The thief's
    discriminator is to see features that are not there. Pictures are shown to the classifier in its own size and
    channels. Deviation: the sign is softened near zero, so that a picture is answered alike in every batch.
    Without a ``classifier`` every pixel moves by a sign that is drawn by key: the control.

    Cost: a forward and a backward pass of the classifier a step. What undoes it: denoising, JPEG, training on
    many pictures, whose perturbations have no common cause; they are made against one classifier and move others
    less.
    """

    type: Literal["adversarial_noise"] = "adversarial_noise"
    epsilon: Annotated[float, Field(gt=0, le=1)] = 0.02
    """The most that a pixel changes, of 1."""
    steps: Annotated[int, Field(ge=1, le=20)] = 1
    """Signed steps."""
    classifier: Path | None = None
    """A safetensors file that ``mantlet train`` wrote, of a classifier of pictures of a fixed size."""
    keeps_top1 = True
    kinds = frozenset({Kind.IMAGES})

    _secret: bytes = PrivateAttr()
    _network: nn.Module | None = PrivateAttr(None)
    _shape: tuple[int, ...] = PrivateAttr(())

    def load(self, setup: Setup) -> None:
        self._secret = setup.secret
        if self.classifier is None:
            return
        network = architectures.read(self.classifier).to(setup.device)
        shape = getattr(network, "input_shape", ())
        if getattr(network, "task", "classify") != "classify" or len(shape) != 3 or min(shape) < 1:
            raise WeightsError(
                f"weights '{self.classifier}': wanted a classifier of pictures of a fixed size; this network"
                f" takes {shape or 'rows of a shape that it does not tell'}"
            )
        self._network, self._shape = network, shape

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        clean = prediction.values
        seeds = noise.row_seeds(self._secret, self.name, query.inputs)
        if self._network is None:
            moved = clean + self.epsilon * noise.fields(seeds, clean.shape[1:]).to(clean).sign()
            return replace(prediction, values=moved.clamp(0, 1))
        with torch.inference_mode(False), torch.enable_grad():
            moved = self._moved(self._network, clean.clone(), seeds)
        return replace(prediction, values=moved)

    def _moved(self, network: nn.Module, clean: Tensor, seeds: np.ndarray) -> Tensor:
        moved, wanted = clean, None
        for _ in range(self.steps):
            moved.requires_grad_(True)
            logits = network(_as_shown(moved, self._shape))  # (B, C)
            if wanted is None:
                share = noise.uniform(seeds, 1)[:, 0]
                wanted = torch.from_numpy((share * logits.shape[1]).astype(np.int64)).to(
                    clean.device
                )
            loss = nn.functional.cross_entropy(logits, wanted, reduction="sum")
            (slope,) = torch.autograd.grad(loss, moved)
            largest = slope.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
            step = (slope / (SOFT * largest)).clamp(-1, 1) * (self.epsilon / self.steps)
            moved = (moved.detach() - step).clamp(0, 1)
        return moved


def _as_shown(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(B, C, H, W) pictures in the size and channels ``shape`` of a network."""
    if images.shape[2:] != shape[1:]:
        images = nn.functional.interpolate(images, shape[1:], mode="bilinear", align_corners=False)
    if images.shape[1] != shape[0]:
        images = images.mean(dim=1, keepdim=True).expand(-1, shape[0], -1, -1)
    return images
