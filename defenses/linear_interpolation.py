"""Latents on the segments between a few anchors (Hu and Pang, 2021)."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from defenses.anchors import Anchored, chosen

PARALLEL = 1e-6
"""Anchors whose sine of the angle is below this have no arc between them."""


class LinearInterpolation(Anchored):
    """Replaces a latent by a point between two of the identity's ``anchors``, which come in fixed pairs.

    ``z' = (sin((1-t)w) a + sin(tw) b) / sin w`` with w the angle between a and b, anchors 2i and 2i + 1. Source:
    Hu and Pang, "Stealing machine learning models: attacks and countermeasures for generative adversarial
    networks", ACSAC 2021, where a batch of n pictures has two free latents. Two deviations: their segments are
    straight, ours are arcs (Shoemake, 1985), because a straight mix of normal latents shrinks, to half the squared norm
    in the middle, and a generator without normalisation then draws badly for honest clients; and anchors are drawn by
    key for whoever pays, in place of each batch's own, because batches and accounts are free. Every anchor has one
    segment: more segments between the same anchors would show a thief more, and serve clients little better.

    However many rows an identity asks for, its pictures come from ``anchors`` independent latents:
    coverage of what can be stolen ends there, and each single picture stays as likely as any other.
    A client that sends latents of its own no longer gets *their* pictures, so tell clients, or take
    none. Cost: two hashes and two latents drawn a row. What undoes it: many identities, each with its own
    anchors, unless they are ``shared`` by everybody, which bounds all of them together and honest clients too;
    budgets below the number of anchors, which lose nothing.
    """

    type: Literal["linear_interpolation"] = "linear_interpolation"
    anchors: Annotated[int, Field(ge=2, le=10**9)] = 500
    """Independent latents of an identity; the last of an odd number has no pair, and is not used."""
    points: Annotated[int, Field(ge=0, le=10**6)] = 9
    """Points inside a segment that are used, evenly apart; 0: any."""

    def place(self, owners: Sequence[str], dice: np.ndarray, size: int) -> np.ndarray:
        number = 2 * chosen(dice[:, 0], self.anchors // 2)
        start, end = self.drawn(owners, number, size), self.drawn(owners, number + 1, size)
        along = dice[:, 1]
        if self.points:
            along = (1 + chosen(along, self.points)) / (self.points + 1)
        return arc(start, end, along)


def arc(start: np.ndarray, end: np.ndarray, along: np.ndarray) -> np.ndarray:
    """(B, D) points on the arcs from ``start`` (B, D), at 0, to ``end``, at 1; ``along`` is (B,).

    >>> arc(np.array([[3.0, 0.0]]), np.array([[0.0, 3.0]]), np.array([0.5])).round(3).tolist()
    [[2.121, 2.121]]
    """
    along = along[:, None]
    lengths = np.linalg.norm(start, axis=1, keepdims=True) * np.linalg.norm(
        end, axis=1, keepdims=True
    )
    cosine = (start * end).sum(axis=1, keepdims=True) / np.maximum(lengths, 1e-12)
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    sine = np.sin(angle)
    flat = sine < PARALLEL  # one number has two directions; of more, none is ever seen here
    sine = np.where(flat, 1.0, sine)
    between = np.sin((1 - along) * angle) / sine * start + np.sin(along * angle) / sine * end
    nearer: np.ndarray = np.where(along < 0.5, start, end)
    return np.where(flat, nearer, between)
