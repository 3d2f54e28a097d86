"""What clients send: honest ones of many kinds, thieves, and mixtures of both.

A crowd shares one pool of pictures, so the victim and the detectors look at each picture once, however
many clients send it. Pictures stay uint8 where a camera would give bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

Pictures = np.ndarray
"""(N, 1, H, W) uint8, or float32 in [0, 1]."""
FRAMES = 20
"""Pictures in a burst of near-duplicates, and steps of a slow drift."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What a crowd of clients sends: client c sends ``pool[order[c, t]]`` as its row t.

    ``order`` is (clients, rows). The attack, if there is one, starts at row ``start``. Clients are of
    the default tier, or of ``tiers``, one a client.
    """

    pool: Pictures
    order: np.ndarray
    start: int = 0
    tiers: tuple[str, ...] = ()

    def inputs(self, rows: np.ndarray) -> Tensor:
        """Rows of the pool as the victim takes them, float32 in [0, 1]."""
        return as_inputs(self.pool[rows])


def as_inputs(pictures: Pictures) -> Tensor:
    """(N, 1, H, W) float32 in [0, 1]."""
    scaled = torch.from_numpy(np.ascontiguousarray(pictures)).float()
    return scaled / 255 if pictures.dtype == np.uint8 else scaled


def as_bytes(inputs: Tensor) -> Pictures:
    """Pictures as a camera would save them."""
    rounded: np.ndarray = (inputs.clamp(0, 1) * 255).round().byte().numpy()
    return rounded


def benign(pictures: Pictures, *, clients: int, rows: int, rng: np.random.Generator) -> Stream:
    """Every client sends ``rows`` of the pictures, none twice."""
    return Stream(pictures, _without_replacement(clients, np.arange(len(pictures)), rows, rng))


def one_class(
    pictures: Pictures, labels: np.ndarray, *, clients: int, rows: int, rng: np.random.Generator
) -> Stream:
    """Every client sends one class: all that there is of it, and then the same a pixel to a side."""
    moved = np.roll(pictures, rng.choice([-1, 1]), axis=int(rng.integers(2, 4)))
    order = []
    for client in range(clients):
        own = np.flatnonzero(labels == client % (int(labels.max()) + 1))
        both = np.concatenate([rng.permutation(own), rng.permutation(own) + len(pictures)])
        order.append(np.resize(both, rows))
    return Stream(np.concatenate([pictures, moved]), np.stack(order))


def near_duplicates(
    pictures: Pictures, *, clients: int, rows: int, rng: np.random.Generator
) -> Stream:
    """Bursts of `FRAMES` frames, as of a video: one picture that trembles, with the noise of a sensor."""
    bursts = min(len(pictures), 2000, clients * -(-rows // FRAMES))
    chosen = rng.permutation(len(pictures))[:bursts].repeat(FRAMES)
    walk = rng.normal(0, 0.3, (bursts, FRAMES, 2)).cumsum(axis=1).clip(-2, 2).reshape(-1, 2)
    frames = _affine(as_inputs(pictures[chosen]), shift=torch.from_numpy(walk).float())
    frames += torch.from_numpy(rng.normal(0, 0.02, frames.shape).astype(np.float32))
    picked = _without_replacement(clients, np.arange(bursts), -(-rows // FRAMES), rng)
    order = picked[:, :, None] * FRAMES + np.arange(FRAMES)  # (clients, bursts, frames)
    return Stream(as_bytes(frames), order.reshape(clients, -1)[:, :rows])


def slow_drift(pictures: Pictures, *, clients: int, rows: int, rng: np.random.Generator) -> Stream:
    """From straight and sharp to 15 degrees or a blur of 0.8 pixels, in `FRAMES` steps over the rows."""
    step = rng.permutation(len(pictures)) % FRAMES  # each picture is seen at one step only
    pool = np.concatenate([np.empty_like(pictures)] * 2)
    for level in range(FRAMES):
        own, share = np.flatnonzero(step == level), level / (FRAMES - 1)
        inputs = as_inputs(pictures[own])
        pool[own] = as_bytes(_affine(inputs, degrees=15 * share))
        pool[own + len(pictures)] = as_bytes(_blurred(inputs, 0.8 * share))
    each = -(-rows // FRAMES)
    parts = [
        _without_replacement(clients, np.flatnonzero(step == level), each, rng)
        for level in range(FRAMES)
    ]
    kind = np.arange(clients) % 2 * len(pictures)  # every second client blurs
    return Stream(pool, np.concatenate(parts, axis=1)[:, :rows] + kind[:, None])


@dataclass(frozen=True, slots=True)
class Device:
    """What makes its pictures others: enlargement, thicker strokes (below 0: thinner), blur, contrast."""

    scale: float
    thickness: float
    blur: float
    gain: float
    gamma: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Device":
        """A device by chance."""
        low, high = np.array([(0.85, 1.15), (-0.4, 0.4), (0.0, 0.7), (0.75, 1.0), (0.7, 1.4)]).T
        return cls(*rng.uniform(low, high).tolist())

    def seen(self, pictures: Pictures) -> Pictures:
        """The pictures as the device would have taken them."""
        inputs = _thickened(_affine(as_inputs(pictures), scale=self.scale), self.thickness)
        return as_bytes(self.gain * _blurred(inputs, self.blur) ** self.gamma)


def other_device(
    pictures: Pictures,
    devices: Sequence[Device],
    *,
    clients: int,
    rows: int,
    rng: np.random.Generator,
) -> Stream:
    """Client c has device c of ``devices``, or begins with the first again."""
    each = min(len(pictures), rows + rows // 4)
    pool = [device.seen(pictures[rng.permutation(len(pictures))[:each]]) for device in devices]
    order = _without_replacement(clients, np.arange(each), rows, rng)
    own = np.arange(clients) % len(devices)
    return Stream(np.concatenate(pool), order + own[:, None] * each)


def mixed(attack: Stream, honest: Stream, share: float, *, rng: np.random.Generator) -> Stream:
    """Attack rows at a ``share`` of the places, drawn by chance, honest ones at the others."""
    clients, rows = attack.order.shape
    bad = rng.random((clients, rows)) < share
    order = np.empty((clients, rows), dtype=np.int64)
    for client in range(clients):
        order[client, bad[client]] = attack.order[client, : bad[client].sum()]
        good = honest.order[client % len(honest.order), : (~bad[client]).sum()]
        order[client, ~bad[client]] = good + len(attack.pool)
    return Stream(joined(attack.pool, honest.pool), order)


def after(honest: Stream, attack: Stream) -> Stream:
    """All of an honest client's rows, and then the attack; as many clients as the attack has."""
    clients = len(attack.order)
    first = honest.order[np.arange(clients) % len(honest.order)] + len(attack.pool)
    order = np.concatenate([first, attack.order], axis=1)
    return Stream(joined(attack.pool, honest.pool), order, start=first.shape[1])


def split(attack: Stream, accounts: int) -> Stream:
    """Each thief's rows dealt in turn to accounts; those of one thief stand beside each other."""
    thieves, rows = attack.order.shape
    each = rows // accounts
    dealt = attack.order[:, : each * accounts].reshape(thieves, each, accounts)
    return Stream(attack.pool, dealt.transpose(0, 2, 1).reshape(thieves * accounts, each))


def runs(attack: Callable[[int], Tensor], count: int) -> Stream:
    """``count`` runs of an attack that decides itself what to send, a client a run."""
    sent = [attack(number).numpy() for number in range(count)]
    rows = min(map(len, sent))
    order = np.arange(count * rows).reshape(count, rows)
    return Stream(np.concatenate([part[:rows] for part in sent]), order)


def joined(*pools: Pictures) -> Pictures:
    """Pools in one; float32 where any of them is."""
    if all(pool.dtype == np.uint8 for pool in pools):
        return np.concatenate(pools)
    return np.concatenate([as_inputs(pool).numpy() for pool in pools])


def _without_replacement(
    clients: int, choices: np.ndarray, rows: int, rng: np.random.Generator
) -> np.ndarray:
    """(clients, rows) of the choices, none twice in a client."""
    if rows > len(choices):
        raise ValueError(f"{rows} rows of {len(choices)} pictures; ask for fewer rows a client")
    return np.stack([rng.permutation(choices)[:rows] for _ in range(clients)])


def _affine(
    inputs: Tensor, *, degrees: float = 0.0, scale: float = 1.0, shift: Tensor | None = None
) -> Tensor:
    """Pictures turned, enlarged and moved by ``shift`` (N, 2) pixels; what comes in from outside is black."""
    angle = torch.deg2rad(torch.tensor(degrees))
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2) / scale
    theta = torch.zeros(len(inputs), 2, 3)
    theta[:, :, :2] = turn
    if shift is not None:
        theta[:, :, 2] = shift * 2 / inputs.shape[-1]
    grid = nn.functional.affine_grid(theta, list(inputs.shape), align_corners=False)
    return nn.functional.grid_sample(inputs, grid, align_corners=False)


def _blurred(inputs: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of ``sigma`` pixels."""
    weights = torch.exp(-(torch.arange(-3, 4) ** 2) / (2 * max(sigma, 1e-3) ** 2))
    weights = weights / weights.sum()
    across = nn.functional.conv2d(inputs, weights.view(1, 1, 1, 7), padding=(0, 3))
    return nn.functional.conv2d(across, weights.view(1, 1, 7, 1), padding=(3, 0))


def _thickened(inputs: Tensor, amount: float) -> Tensor:
    """Strokes thicker (above 0) or thinner, a mix with what the neighbours' extreme gives."""
    if amount > 0:
        return inputs + amount * (nn.functional.max_pool2d(inputs, 3, 1, 1) - inputs)
    return inputs - amount * (-nn.functional.max_pool2d(-inputs, 3, 1, 1) - inputs)
