"""A client's seed stands for the same latents for ever, and for nobody else's."""

import numpy as np

from serving import latents


def drawn(
    *, model: str = "m", client: str = "a", seed: int = 1, rows: int = 4, secret: bytes = b"k"
) -> np.ndarray:
    return latents.draw(secret, model=model, client=client, seed=seed, rows=rows, size=64)


def test_the_same_seed_gives_the_same_latents() -> None:
    assert np.array_equal(drawn(), drawn())


def test_more_rows_begin_with_the_same_ones() -> None:
    assert np.array_equal(drawn(rows=9)[:4], drawn())


def test_another_model_client_seed_or_secret_gives_others() -> None:
    others = [drawn(model="n"), drawn(client="b"), drawn(seed=2), drawn(secret=b"l")]

    assert not any(np.array_equal(other, drawn()) for other in others)


def test_they_are_standard_normal() -> None:
    many = drawn(rows=4000)

    assert abs(many.mean()) < 0.01
    assert abs(many.std() - 1) < 0.01
