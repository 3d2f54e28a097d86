"""Crops: pictures of a client that show again what earlier ones showed, cut otherwise."""

from functools import cached_property
from hashlib import blake2b
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn

from mantlet.errors import CalibrationError
from mantlet.plugin import Calibration, EvidenceDetector, Setup
from mantlet.types import Prediction, Query, State, Task

LEAST = 200
HALF = 24
"""Bits of each half of a patch's code; whole numbers that a float32 holds."""
NONE = 2 ** (2 * HALF) - 1
"""In place of a code, where a picture has few patches that show anything."""
STRIP = 64
"""Rows of patches that are looked at together, so that a large picture takes no more memory."""
PLAIN = 0.1
"""A patch whose numbers deviate less than this from a slope shows nothing."""


class Crops(EvidenceDetector):
    """Finds pictures that are cut of one scene: windows that overlap, however far they are moved.

    Of all ``patch`` x ``patch`` patches of a picture that are no plain slope, each has a code of signs of keyed
    projections, which moves with the content; the ``codes`` patches whose codes come first in a keyed order stand for
    the picture (min-wise sampling: Broder, 1997), so that two windows that share a part share codes. A picture's score
    is 1 where more of its codes are among those of the client's last ``remembered`` pictures than in all but
    ``quantile`` of benign ones.

    A thief of an image-to-image model buys few scenes and cuts many pairs out of them; a client who has a large
    picture enlarged cuts it once. The same picture once more is a retry and no evidence. Videos are windows of
    one scene too: who sends them needs a tier of its own. Cost: a convolution with 48 kernels of the picture,
    1 ms for 48 x 48, 30 ms for 256 x 256. What undoes it: scenes that are scaled, turned or drowned in noise between two windows;
    windows with less than a fifth in common; many accounts.
    """

    type: Literal["crops"] = "crops"
    patch: Annotated[int, Field(ge=8, le=32)] = 12
    """Side of a patch, in pixels."""
    codes: Annotated[int, Field(ge=2, le=32)] = 8
    """Patches that stand for a picture."""
    remembered: Annotated[int, Field(ge=1, le=1024)] = 256
    """Pictures of a client that are remembered, eight bytes a code."""
    quantile: Annotated[float, Field(gt=0, le=0.1)] = 0.01
    """Share of benign pictures that are flagged."""

    needs_calibration = True
    tasks = frozenset({Task.TRANSLATE})
    _secret: bytes = PrivateAttr(b"")

    def load(self, setup: Setup) -> None:
        super().load(setup)
        self._secret = setup.secret

    @cached_property
    def _kernels(self) -> Tensor:
        """(48, 1, patch, patch) orthonormal, keyed and blind to slopes."""
        seed = blake2b(self._secret, digest_size=32, person=b"crops").digest()
        rng, side = np.random.default_rng(list(seed)), np.arange(self.patch) - (self.patch - 1) / 2
        down, across = (axis.ravel() for axis in np.meshgrid(side, side))
        slopes = np.linalg.qr(np.stack([np.ones(self.patch**2), down, across], axis=1))[0]
        drawn = rng.standard_normal((self.patch**2, 2 * HALF))
        basis = np.linalg.qr(drawn - slopes @ (slopes.T @ drawn))[0].T
        return torch.from_numpy(basis.reshape(-1, 1, self.patch, self.patch).copy()).float()

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        """(B, 2 * codes) both halves of the codes of the patches that stand for each picture."""
        if not self._learned:
            return torch.zeros(len(query.clients), 2 * self.codes)
        codes = self._coded(query.inputs)
        return torch.cat([codes >> HALF, codes & (2**HALF - 1)], dim=1).float()

    def _coded(self, inputs: Tensor) -> Tensor:
        """(B, codes) of (B, C, H, W) pictures."""
        if inputs.ndim < 4 or min(inputs.shape[2:]) < self.patch:
            return torch.full((len(inputs), self.codes), NONE)
        return torch.stack([self._of_picture(picture) for picture in inputs])

    def _of_picture(self, picture: Tensor) -> Tensor:
        """(codes,) of a picture (C, H, W)."""
        bright = picture.float().mean(dim=0)
        rows = range(0, len(bright) - self.patch + 1, STRIP)
        strips = [self._of_strip(bright[row : row + STRIP + self.patch - 1]) for row in rows]
        found = torch.unique(torch.cat(strips))
        order = (found * self._turn) & NONE  # by an odd factor: all codes in another order
        kept = found[order.argsort()[: self.codes]]
        return nn.functional.pad(kept, (0, self.codes - len(kept)), value=NONE)

    def _of_strip(self, bright: Tensor) -> Tensor:
        """(n,) codes of the patches of (H, W) that show anything."""
        along = nn.functional.conv2d(bright[None, None], self._kernels)[0]
        shows = along.square().sum(dim=0) > len(along) * PLAIN**2  # (H', W')
        places = (2 ** torch.arange(len(along))).view(-1, 1, 1)
        return ((along > 0) * places).sum(dim=0)[shows]

    @cached_property
    def _turn(self) -> int:
        """An odd number."""
        seed = blake2b(self._secret, digest_size=4, person=b"order").digest()
        return int.from_bytes(seed, "little") % 2**31 | 1

    def initial(self) -> State:
        return {"codes": np.zeros((0, self.codes), np.uint64)}

    def fits(self, state: State) -> bool:
        codes = state.get("codes", np.zeros(0))
        return (
            super().fits(state)
            and codes.shape[1:] == (self.codes,)
            and len(codes) <= self.remembered
        )

    def watch(self, state: State, rows: np.ndarray, at: float) -> tuple[State, np.ndarray]:
        if not self._learned:
            return state, np.zeros((len(rows), 1))
        high, low = np.split(rows.astype(np.uint64), 2, axis=1)
        known = np.concatenate([state["codes"], (high << np.uint64(HALF)) + low])
        shared = self._shared(known, len(state["codes"]))
        flags = (shared > self._learned["shared"])[:, None].astype(np.float64)
        return {"codes": known[-self.remembered :].copy()}, flags

    def _shared(self, known: np.ndarray, before: int) -> np.ndarray:
        """(n,) how many codes of each picture after the first ``before`` are among those remembered then."""
        shared = np.empty(len(known) - before)
        for row in range(before, len(known)):
            seen = known[max(row - self.remembered, 0) : row].ravel()
            own = known[row]
            shared[row - before] = np.isin(own[own < NONE], seen).sum()
        return shared

    def calibrate(self, query: Query, prediction: Prediction) -> Calibration:
        """How many codes benign pictures share with those before them; needs 200 of them."""
        rows = len(query.inputs)
        if rows < LEAST:
            raise CalibrationError(
                f"detector '{self.name}': {rows} benign rows are too few to know what pictures share;"
                f" give at least {LEAST}, better 5,000"
            )
        codes = self._coded(query.inputs).numpy().astype(np.uint64)
        shared = self._shared(codes, min(rows // 2, self.remembered))
        return {"shared": np.array(np.quantile(shared, 1 - self.quantile, method="higher"))}
