"""The pool of letters: real pictures, many of them, always the same."""

import numpy as np

from redteam.glyphs import glyphs


def test_the_same_seed_draws_the_same_letters_and_another_seed_others() -> None:
    assert (glyphs(20, seed=1) == glyphs(20, seed=1)).all()
    assert (glyphs(20, seed=1) != glyphs(20, seed=2)).any()


def test_letters_are_white_strokes_on_black_and_no_two_are_alike() -> None:
    pictures = glyphs(200)

    assert pictures.shape == (200, 1, 28, 28)
    assert pictures.dtype == np.uint8
    assert (pictures.max(axis=(1, 2, 3)) > 150).all()
    assert 0.03 < (pictures > 127).mean() < 0.4
    assert len(np.unique(pictures.reshape(200, -1), axis=0)) == 200
