"""The mean of a client's last scores is exact, bounded, and does not depend on how a stream was cut."""

import numpy as np
import pytest

from serving import recent


def folded(share: np.ndarray, cuts: list[int]) -> np.ndarray:
    """One client's (n, F) shares, cut into batches at ``cuts``."""
    state, seen = recent.initial(share.shape[1])[None], 0
    for part in np.split(share, cuts):
        if len(part):
            state = recent.fold(state, np.array([seen]), [range(len(part))], part, 7.0)
            seen += len(part)
    one: np.ndarray = state[0]
    return one


@pytest.mark.parametrize("cuts", [[1, 2, 3], [25], [24, 26, 50, 51, 130], list(range(140)), [0]])
def test_any_cut_gives_the_same_bits(cuts: list[int]) -> None:
    share = np.random.default_rng(0).random((140, 3))
    share[5] = np.nan

    assert np.array_equal(folded(share, cuts), folded(share, []))


def test_the_mean_is_that_of_the_last_rows() -> None:
    share = np.concatenate([np.full((1000, 1), 8.0), np.full((50, 1), 0.5)])

    assert recent.mean(folded(share, []), 1050) == pytest.approx(0.5)
    assert recent.mean(folded(share[:1000], []), 1000) == pytest.approx(8.0)
    assert recent.mean(folded(share[:3], []), 3) == pytest.approx(8.0)


def test_clients_of_a_batch_do_not_mix() -> None:
    share = np.random.default_rng(1).random((90, 2))
    rows_of = [list(range(0, 60, 2)), list(range(1, 60, 2)), list(range(60, 90))]
    state = np.stack([recent.initial(2)] * 3)
    together = recent.fold(state, np.array([0, 10, 24]), rows_of, share, 7.0)

    for client, seen in enumerate([0, 10, 24]):
        own = share[rows_of[client]]
        alone = recent.fold(state[:1], np.array([seen]), [range(30)], own, 7.0)
        assert np.array_equal(together[client], alone[0])
