"""Edits of a few pictures along what the generator can vary most (Hu and Pang, 2021)."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from defenses.anchors import Anchored, chosen
from mantlet.errors import ConfigError
from mantlet.plugin import Setup
from mantlet.types import Victim

STEP = 0.1
"""Length of a difference's step, in standard deviations of the prior."""
PROBES = 32
"""Directions in which the generator is probed about one latent."""
ROWS = 64
"""Latents that the generator is asked at once."""


class SemanticInterpolation(Anchored):
    """Replaces a latent by one of the identity's ``anchors``, turned along a principal direction of the generator.

    ``z' = a cos f + |a| u sin f``: anchor a, the part u of the direction that is orthogonal to it, of length 1,
    and an angle f in ``steps`` steps up to ``reach`` to both sides, so that the norm stays. Which anchor, direction
    and step is decided by a keyed hash of the row. Source: Hu and Pang, ACSAC 2021, who move along labelled
    attributes of faces. Deviations: directions are found without labels, as the eigenvectors of the mean of
    J'J over the prior, J being the generator's Jacobian by finite differences (as in Ramesh, Choi and LeCun,
    "A spectral regularizer for unsupervised disentanglement", 2018); they turn the latent in place of lengthening it, because
    a generator without normalisation draws badly beyond the norms it was trained on; anchors belong to whoever
    pays. The differences need nothing but answers, so upstream victims are taken too.

    What an identity sees are edits of ``anchors`` pictures: coverage of what can be stolen ends there. A client that
    sends latents of its own no longer gets *their* pictures. Cost: at load, 33 * ``probed`` rows asked of the
    victim; then two hashes and a latent drawn a row. What undoes it: many identities, unless the anchors
    are ``shared`` by everybody; budgets below the number of anchors.
    """

    type: Literal["semantic_interpolation"] = "semantic_interpolation"
    anchors: Annotated[int, Field(ge=1, le=10**9)] = 500
    """Independent latents of an identity."""
    directions: Annotated[int, Field(ge=1, le=512)] = 8
    """Principal directions, the strongest ones; at most the latent has numbers."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 4
    """Steps to each side of an anchor."""
    reach: Annotated[float, Field(gt=0, le=1.5)] = 0.6
    """The farthest step, in radians."""
    probed: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Latents of the prior about which the generator is probed at load."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of these latents."""

    _axes: list[np.ndarray] = PrivateAttr(default_factory=list)

    def load(self, setup: Setup) -> None:
        super().load(setup)
        if setup.victim is None:
            raise ConfigError(f"input defense '{self.name}': there is no generator to be probed")
        self._axes[:] = [principal_directions(setup.victim, probed=self.probed, seed=self.seed)]

    def place(self, owners: Sequence[str], dice: np.ndarray, size: int) -> np.ndarray:
        anchor = self.drawn(owners, chosen(dice[:, 0], self.anchors), size)
        axes = self._axes[0][: self.directions]
        axis = axes[chosen(dice[:, 1], len(axes))]  # (B, D)
        step = chosen(dice[:, 2], 2 * self.steps) - self.steps  # -steps to steps - 1
        step += step >= 0  # the anchor itself is left out
        return turned(anchor, axis, step * (self.reach / self.steps))


def turned(latents: np.ndarray, axes: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """(B, D) latents turned by ``angles`` (B,) radians towards ``axes`` (B, D); norms stay."""
    norm = np.linalg.norm(latents, axis=1, keepdims=True)
    unit = latents / np.maximum(norm, 1e-12)
    aside = axes - (axes * unit).sum(axis=1, keepdims=True) * unit
    length = np.linalg.norm(aside, axis=1, keepdims=True)
    aside = norm * aside / np.maximum(length, 1e-12)
    angles = np.where(length > 1e-6, angles[:, None], 0.0)  # parallel: there is nowhere to turn
    after: np.ndarray = latents * np.cos(angles) + aside * np.sin(angles)
    return after


def principal_directions(victim: Victim, *, probed: int, seed: int) -> np.ndarray:
    """(D, D) orthonormal directions of latents, those first along which the pictures change most.

    Eigenvectors of the mean over ``probed`` latents of P J'J P, with J the Jacobian by finite differences
    and P a random projection on 32 directions: its expectation has the eigenvectors of that of J'J.
    """
    size, rng = victim.input.size, np.random.default_rng(seed)
    many, total = min(PROBES, size), np.zeros((size, size))
    for _ in range(probed):
        basis = np.linalg.qr(rng.standard_normal((size, many)))[0].T  # (P, D)
        latent = rng.standard_normal(size)
        asked = np.concatenate([latent[None], latent + STEP * basis]).astype(np.float32)
        drawn = _asked(victim, torch.from_numpy(asked).view(-1, *victim.input.shape))
        change = (drawn[1:] - drawn[:1]) / STEP  # (P, pixels)
        total += basis.T @ (change @ change.T) @ basis
    _, vectors = np.linalg.eigh(total)
    directions: np.ndarray = vectors[:, ::-1].T.copy()
    return directions


def _asked(victim: Victim, latents: Tensor) -> np.ndarray:
    """(B, pixels) float64 pictures of latents."""
    parts = [victim.predict(part).values.flatten(1) for part in torch.split(latents, ROWS)]
    return torch.cat(parts).double().numpy(force=True)
