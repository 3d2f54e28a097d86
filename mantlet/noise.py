"""Keyed noise: the same row always draws the same noise, so repeating a query averages nothing away."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

STEP = 1.0 / 255.0
"""Inputs are rounded to this step before hashing: a change too small to see draws no new noise."""


def row_seeds(key: bytes, name: str, inputs: Tensor) -> np.ndarray:
    """One 64-bit seed a row, from the secret ``key``, the plug-in's ``name`` and the rounded row.

    ``inputs`` is (B, *shape); returns (B,) uint64.
    """
    steps = (inputs.reshape(inputs.shape[0], -1) / STEP).round().clamp(-32768, 32767)
    rows = np.ascontiguousarray(steps.to(torch.int16).cpu().numpy())  # hashed as bytes
    return seeds_of(key, name, rows)


def seeds_of(key: bytes, name: str, items: Iterable[bytes]) -> np.ndarray:
    """(B,) uint64, one an item: a pseudorandom function of ``key`` and ``name`` (BLAKE2, RFC 7693)."""
    secret = blake2b(key, digest_size=32, person=b"mantlet").digest()
    salt = blake2b(name.encode(), digest_size=16).digest()
    drawn = [blake2b(item, digest_size=8, key=secret, salt=salt).digest() for item in items]
    return np.frombuffer(b"".join(drawn), dtype=np.uint64)


def row_marks(key: bytes, inputs: Tensor) -> np.ndarray:
    """(B,) uint32 marks of (B, *shape) float32 rows, by which the same row is known again.

    A multilinear hash (Carter and Wegman, 1979): two rows have one mark by a chance of 2**-32, and nobody
    without the ``key`` can make it so. Nothing is rounded: a row that differs in a bit is another.
    """
    rows = np.ascontiguousarray(inputs.numpy(force=True)).reshape(len(inputs), -1)
    bits = rows.view(np.uint32).astype(np.uint64)
    # einsum: integers have no fast matrix product. 64-bit arithmetic is meant to wrap
    sums = np.einsum("bd,d->b", bits, _weights(key, bits.shape[1]))
    marks: np.ndarray = (sums >> np.uint64(32)).astype(np.uint32)
    return marks


@lru_cache(maxsize=16)
def _weights(key: bytes, count: int) -> np.ndarray:
    """(count,) secret 64-bit numbers."""
    seed = blake2b(key, digest_size=32, person=b"marks").digest()
    return np.random.default_rng(list(seed)).integers(0, 2**64, count, np.uint64)


def uniform(seeds: np.ndarray, count: int) -> np.ndarray:
    """(B,) seeds to (B, count) float64 in (0, 1): the SplitMix64 sequence of each seed.

    Counter-based, so all rows are drawn at once and no row depends on another. Source: Steele, Lea
    and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    draws: np.ndarray = (
        (_words(seeds, count) >> np.uint64(11)).astype(np.float64) + 0.5
    ) * 2.0**-53
    return draws


def _words(seeds: np.ndarray, count: int) -> np.ndarray:
    """(B, count) uint64: the first numbers of each seed's sequence."""
    with np.errstate(over="ignore"):  # 64-bit arithmetic is meant to wrap
        counter = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = seeds[:, None] + counter[None, :]
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        words: np.ndarray = z ^ (z >> np.uint64(31))
    return words


def normal(key: bytes, name: str, inputs: Tensor, count: int) -> Tensor:
    """(B, count) float32 standard normal noise, a function of secret, name and rounded row alone.

    >>> row = torch.zeros(1, 4)
    >>> torch.equal(normal(b"k", "n", row, 3), normal(b"k", "n", row, 3))
    True
    >>> torch.equal(normal(b"k", "n", row, 3), normal(b"other", "n", row, 3))
    False
    """
    drawn = normals(row_seeds(key, name, inputs), count)
    return torch.from_numpy(drawn).to(inputs.device)


def normals(seeds: np.ndarray, count: int) -> np.ndarray:
    """(B,) seeds to (B, count) float32 standard normal numbers."""
    pairs = (count + 1) // 2
    draws = uniform(seeds, 2 * pairs)
    radius = np.sqrt(-2.0 * np.log(draws[:, :pairs]))  # Box and Muller, 1958
    angle = 2.0 * np.pi * draws[:, pairs:]
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    drawn: np.ndarray = both[:, :count].astype(np.float32)
    return drawn


def fields(seeds: np.ndarray, shape: Sequence[int]) -> Tensor:
    """(B,) seeds to (B, *shape) float32 standard normal noise, for rows of many numbers.

    Each row is the sequence of a generator (SFC64, of PractRand) whose state the seed fills: five times as fast as
    `normals`, and no memory beside the noise.
    """
    drawn = np.empty((len(seeds), *shape), np.float32)
    bits = np.random.SFC64(0)
    generator, state = np.random.Generator(bits), bits.state
    for words, row in zip(_words(seeds, 4), drawn, strict=True):
        state["state"]["state"][:] = words
        bits.state = state
        generator.standard_normal(out=row, dtype=np.float32)
    return torch.from_numpy(drawn)
