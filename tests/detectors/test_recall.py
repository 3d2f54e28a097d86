import numpy as np
import pytest

from detectors.recall import codes_of, empty, projection, recall, recall_each, remember, runs


def drawn(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-127, 128, (count, 6)).astype(np.int8)


def tags(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint32) % 3


def test_a_row_finds_what_was_sent_before_and_how_long_ago() -> None:
    new = drawn(4)
    found = recall(empty(8, 6), new, tags(4), [0, 1, 2, 3], 1)
    apart = new.astype(int)[3] - new.astype(int)

    assert found.lag[3].clip(0).tolist() == [0] * 8 + [3, 2, 1, 0]
    assert found.square[3, 8:].tolist() == (apart * apart).sum(axis=1).tolist()
    assert found.same[3, 8:].tolist() == [True, False, False, True]


def test_what_lost_its_slot_is_forgotten_by_the_rows_after_and_no_sooner() -> None:
    found = recall(empty(2, 6), drawn(4), tags(4), [0, 0, 0, 1], 1)

    assert found.lag[:, 2:].clip(0).tolist() == [
        [0, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
    ]
    assert remember(empty(2, 6), drawn(4), tags(4), [0, 0, 0, 1], 1)["born"].tolist() == [3, 4]


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_stream_cut_in_two_is_remembered_and_found_as_the_whole(cut: int) -> None:
    new, slots = drawn(20), [(number * 7) % 5 for number in range(20)]
    whole = recall(empty(5, 6), new, tags(20), slots, 1)
    memory = remember(empty(5, 6), new[:cut], tags(20)[:cut], slots[:cut], 1)
    for row in range(cut, 20):  # one by one, which takes the shorter way
        one = new[row : row + 1], tags(20)[row : row + 1], slots[row : row + 1], row + 1
        later = recall(memory, *one)
        seen, expected = later.lag[0] > 0, whole.lag[row] > 0
        assert sorted(later.square[0][seen]) == sorted(whole.square[row][expected])
        memory = remember(memory, *one)
    at_once = remember(empty(5, 6), new, tags(20), slots, 1)

    assert all(np.array_equal(memory[name], at_once[name]) for name in at_once)


def test_rows_of_several_clients_are_compared_each_with_its_own() -> None:
    memories = [remember(empty(5, 6), drawn(4, seed=s), tags(4), [0, 1, 2, 3], 1) for s in (1, 2)]
    new, numbers = drawn(2, seed=3), np.array([5, 5])
    found = recall_each(memories, new, tags(2), numbers)
    alone = [recall(m, new[[i]], tags(2)[[i]], [4], 5) for i, m in enumerate(memories)]

    assert np.array_equal(found.square, np.concatenate([one.square for one in alone]))
    assert np.array_equal(found.lag, np.concatenate([one.lag for one in alone]))
    assert np.array_equal(found.same, np.concatenate([one.same for one in alone]))


def test_nothing_is_written_into() -> None:
    memory, new = empty(3, 6), drawn(2)
    kept = {name: array.copy() for name, array in memory.items()}
    recall(memory, new, tags(2), [0, 1], 1)
    remember(memory, new, tags(2), [0, 1], 1)

    assert all(np.array_equal(memory[name], kept[name]) for name in kept)


def test_codes_keep_within_a_byte() -> None:
    codes = codes_of(np.array([[-1e9, -1.0, 0.0, 0.06, 0.07, 1e9]]))

    assert codes.tolist() == [[-127, -8, 0, 0, 1, 127]]


def test_the_projection_keeps_distances_on_average() -> None:
    rows = np.random.default_rng(1).standard_normal((200, 500))
    kept = ((rows @ projection(500, 64, 0)) ** 2).sum(axis=1) / (rows**2).sum(axis=1)

    assert kept.mean() == pytest.approx(1.0, abs=0.05)
    assert kept.std() < 0.25


def test_a_run_goes_on_over_a_cut_and_ends_where_nothing_is_followed() -> None:
    following = np.array([True, True, False, True, True, True])

    assert runs(following, 5).tolist() == [6, 7, 0, 1, 2, 3]
    assert runs(following[:1], 0).tolist() == [1]
