"""Latents for clients who ask for pictures by number and seed: a client's seed always gives the same ones."""

from hashlib import blake2b

import numpy as np

from serving.victims.base import LATENT

LARGEST_SEED = 2**53 - 1
"""What JSON of every language carries exactly."""


def draw(secret: bytes, *, model: str, client: str, seed: int, rows: int, size: int) -> np.ndarray:
    """(rows, size) float32 standard normal, a function of secret, model, client and seed.

    The first rows are the same however many are asked. Nobody without the secret can tell which latents a
    seed stands for, and two clients get different ones for the same seed.
    """
    key = blake2b(secret, digest_size=32, person=b"latents").digest()
    about = b"\0".join([model.encode(), client.encode(), str(seed).encode()])
    drawn = blake2b(about, digest_size=16, key=key).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(drawn, "little")))
    return generator.standard_normal((rows, size), dtype=np.float32).clip(-LATENT, LATENT)
