"""What input defenses of generators share: latents that belong to whoever pays, and who need not be remembered."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import PrivateAttr
from torch import Tensor

from mantlet import noise
from mantlet.plugin import InputDefense, Setup
from mantlet.types import Query


class Anchored(InputDefense):
    """Replaces every latent by one that is made of a few anchors of the client's identity.

    An anchor is a standard normal latent, a pseudorandom function of the gateway's secret, the plug-in's
    name, the identity and its number: nothing is stored, and every replica and every restart draws the same. Which
    anchor stands in for a row is decided by a keyed hash of the row, so that a repeated latent gets the same
    picture and nobody can aim at an anchor of his choice.
    """

    shared: Literal["identity", "everybody"] = "identity"
    """Whose anchors are the same: all accounts of one identity have one set, or everybody has."""

    _secret: bytes = PrivateAttr()

    def load(self, setup: Setup) -> None:
        self._secret = setup.secret

    def rewrite(self, query: Query) -> Tensor:
        shape = query.inputs.shape
        dice = noise.uniform(
            noise.row_seeds(self._secret, f"{self.name}/place", query.inputs), 3
        )  # (B, 3) in (0, 1)
        placed = self.place(self._owners(query), dice, shape[1:].numel())
        return torch.from_numpy(placed.astype(np.float32)).view(shape).to(query.inputs.device)

    @abstractmethod
    def place(self, owners: Sequence[str], dice: np.ndarray, size: int) -> np.ndarray:
        """(B, size) latents for rows of ``owners`` (B,) and their fates, ``dice`` (B, 3) in (0, 1)."""

    def drawn(self, owners: Sequence[str], numbers: np.ndarray, size: int) -> np.ndarray:
        """(B, size) float64: anchor ``numbers[i]`` of ``owners[i]``."""
        items = [f"{n}/{o}".encode() for n, o in zip(numbers.tolist(), owners, strict=True)]
        latents = noise.normals(noise.seeds_of(self._secret, f"{self.name}/anchor", items), size)
        return latents.astype(np.float64)

    def _owners(self, query: Query) -> Sequence[str]:
        if self.shared == "everybody":
            return [""] * len(query.clients)
        return query.identities or query.clients


def chosen(dice: np.ndarray, many: int) -> np.ndarray:
    """(B,) numbers below ``many`` from (B,) fates in (0, 1)."""
    return np.minimum((dice * many).astype(np.int64), many - 1)
