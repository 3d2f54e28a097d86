"""From what an image model computes to pictures in [0, 1], of any size, with what detectors see of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mantlet.errors import VictimError
from mantlet.finite import all_finite
from mantlet.types import Kind, Prediction

Run = Callable[[Tensor], Tensor]
SIDE = 8
"""Side of a thumbnail, in pixels."""
LEAST = (1, 2, 4, 8, 16, 32)
"""Least sides that are tried."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness of ITU-R BT.601, as JPEG has it."""


def thumbnails(images: Tensor) -> Tensor:
    """(B, 64) mean brightness of 8 x 8 fields of (B, C, H, W) pictures of any size."""
    grey = images if images.shape[1] == 1 else images.mean(dim=1, keepdim=True)
    return nn.functional.adaptive_avg_pool2d(grey, SIDE).flatten(1)


def prediction(raw: Tensor, black: float, white: float) -> Prediction:
    """Pictures of (B, C, H, W) numbers of which ``black`` stands for 0 and ``white`` for 1.

    Raises `VictimError` for what is no picture: clipping must not make one of an infinity.
    """
    if raw.ndim != 4 or not all_finite(raw):
        raise VictimError(f"the victim answered {tuple(raw.shape)}, or values that are not finite")
    values = ((raw.float() - black) / (white - black)).clamp(0.0, 1.0)
    return Prediction(values, Kind.IMAGES, features=thumbnails(values))


def by_luma(run: Run, scale: int) -> Run:
    """Lets a model of brightness translate colour pictures: hues are enlarged bicubically.

    Maps (B, 3, H, W) in [0, 1] to (B, 3, sH, sW), with JPEG's transform between the two.
    """

    def translate(inputs: Tensor) -> Tensor:
        weights = torch.tensor(LUMA).view(1, 3, 1, 1)
        bright = (inputs * weights).sum(dim=1, keepdim=True)
        hues = nn.functional.interpolate(inputs - bright, scale_factor=scale, mode="bicubic")
        return run(bright) + hues

    return translate


@dataclass(frozen=True, slots=True)
class Tiling:
    """How pictures of any size go through a model: in tiles of ``side`` input pixels at most.

    Tiles overlap by ``margin`` pixels, so that a model that looks no further than that answers as it
    would to the whole picture. Sides are filled up to a ``multiple`` by mirroring. The answer is
    ``scale`` times as large as the picture. Sides under ``least`` are filled up too.
    """

    side: int
    margin: int
    multiple: int
    scale: int
    least: int = 1

    def fitted(self, run: Run, channels: int) -> "Tiling":
        """With the least side that a model takes: some cannot mirror what is narrower than they look."""
        for least in LEAST:
            try:
                side = -(-least // self.multiple) * self.multiple
                run(torch.full((1, channels, side, side), 0.5))
            except Exception:  # noqa: S112  # engines refuse sizes in their own ways; the next is larger
                continue
            return replace(self, least=least)
        raise VictimError(f"the victim takes no picture of {LEAST[-1]} pixels a side or less")

    def difference(self, run: Run, channels: int) -> float:
        """How far tiles are from the whole in any pixel, on a probe that grows brighter across.

        A model that looks at the whole picture, as normalisation by picture does, answers otherwise in tiles.
        """
        margin = -(-self.margin // self.multiple) * self.multiple
        step = -(-max(self.least, 16) // self.multiple) * self.multiple
        small = replace(self, side=2 * margin + step)
        side = 3 * small.side
        ramp = torch.linspace(0, 1, side).view(1, 1, 1, side).expand(1, channels, side, side)
        noise = torch.rand(ramp.shape, generator=torch.Generator().manual_seed(0))
        probe = (ramp * (0.5 + 0.5 * noise)).contiguous()
        whole = replace(self, side=side)
        return float((small.run(run, probe) - whole.run(run, probe)).abs().max())

    def run(self, run: Run, inputs: Tensor) -> Tensor:
        """(B, C', sH, sW) of (B, C, H, W)."""
        height, width = inputs.shape[2:]
        filled = self._filled(inputs)
        if max(filled.shape[2:]) <= self.side:
            return self._checked(run(filled), filled)[
                ..., : height * self.scale, : width * self.scale
            ]
        rows = []
        for top, above, bottom, below in self._cuts(filled.shape[2]):
            row = []
            for left, before, right, after in self._cuts(filled.shape[3]):
                tile = filled[:, :, top - above : bottom + below, left - before : right + after]
                answer = self._checked(run(tile.contiguous()), tile)
                s = self.scale
                row.append(
                    answer[
                        :,
                        :,
                        above * s : (above + bottom - top) * s,
                        before * s : (before + right - left) * s,
                    ]
                )
            rows.append(torch.cat(row, dim=3))
        return torch.cat(rows, dim=2)[..., : height * self.scale, : width * self.scale]

    def _filled(self, inputs: Tensor) -> Tensor:
        """Sides filled up to the multiple."""
        least = -(-self.least // self.multiple) * self.multiple
        below, after = (max(least - length, -length % self.multiple) for length in inputs.shape[2:])
        if not below and not after:
            return inputs
        mirrored = below < inputs.shape[2] and after < inputs.shape[3]
        return nn.functional.pad(
            inputs, (0, after, 0, below), mode="reflect" if mirrored else "replicate"
        )

    def _cuts(self, length: int) -> Iterator[tuple[int, int, int, int]]:
        """Start and end of every tile along an axis, with the margin that there is on both sides."""
        margin = -(-self.margin // self.multiple) * self.multiple
        step = max((self.side - 2 * margin) // self.multiple, 1) * self.multiple
        for start in range(0, length, step):
            end = min(start + step, length)
            yield start, min(margin, start), end, min(margin, length - end)

    def _checked(self, answer: Tensor, tile: Tensor) -> Tensor:
        height, width = (length * self.scale for length in tile.shape[2:])
        if answer.ndim != 4 or answer.shape[2:] != (height, width):
            raise VictimError(
                f"the victim answered {tuple(answer.shape)} to pictures of {tuple(tile.shape)};"
                f" wanted {height} x {width} pixels"
            )
        return answer
