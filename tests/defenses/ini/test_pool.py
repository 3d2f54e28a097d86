from collections.abc import Callable

import numpy as np
import pytest

from defenses.ini import pool
from defenses.ini.pool import Drawn

Draw = Callable[[int, tuple[int, ...], np.random.Generator], np.ndarray]
OWN = np.random.default_rng(0).integers(0, 256, (60, 1, 28, 28), dtype=np.uint8)
LABELS = np.arange(60) % 10


def picture(kind: Drawn, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return pool.drawn([kind], OWN, LABELS, OWN, count=90, symmetric=(0, 1, 8), rng=rng)


@pytest.mark.parametrize("kind", ["mixed", "strokes", "glyphs", "turned"])
def test_pictures_are_of_the_datas_shape_and_the_same_for_a_seed(kind: Drawn) -> None:
    first = picture(kind)

    assert first.shape == (90, 1, 28, 28)
    assert first.dtype == np.uint8
    assert np.array_equal(first, picture(kind))
    assert not np.array_equal(first, picture(kind, seed=1))


def test_every_kind_has_an_equal_part() -> None:
    found = pool.drawn(
        ["strokes", "turned"],
        OWN,
        LABELS,
        OWN,
        count=40,
        symmetric=(),
        rng=np.random.default_rng(0),
    )

    assert len(found) == 40


@pytest.mark.parametrize("draw", [pool.strokes, pool.glyphs])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_what_is_drawn_shows_and_leaves_most_of_the_picture_plain(
    draw: Draw, shape: tuple[int, ...]
) -> None:
    found = draw(300, shape, np.random.default_rng(0)).reshape(300, -1).astype(float)
    plain = np.median(found, axis=1)

    assert found.shape[1] == np.prod(shape)
    assert np.isin(plain, (0, 255)).mean() > 0.8
    assert (found.std(axis=1) > 10).mean() > 0.95


def test_classes_that_look_the_same_mirrored_are_not_turned() -> None:
    marked = np.zeros((10, 1, 8, 8), np.uint8)
    marked[:, 0, 0, 1] = 10 + np.arange(10)
    found = pool.drawn(
        ["turned"],
        marked,
        np.arange(10),
        marked,
        count=200,
        symmetric=(0, 1, 8),
        rng=np.random.default_rng(0),
    )

    assert set(found.max(axis=(1, 2, 3)).tolist()) == {12, 13, 14, 15, 16, 17, 19}


def test_turned_pictures_are_mirrored_or_turned_by_a_quarter() -> None:
    one = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4).repeat(50, axis=0)
    found = pool.turned(one, np.random.default_rng(0))
    wanted = [np.fliplr(one[0, 0]), np.rot90(one[0, 0]), np.rot90(one[0, 0], 3)]

    assert all(any(np.array_equal(picture[0], w) for w in wanted) for picture in found)
    assert len(np.unique(found, axis=0)) == 3
